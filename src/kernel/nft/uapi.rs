//! The kernel's numbers: linux/netfilter/nf_tables.h, and where they are from elsewhere, that is said.

/// `NFNL_SUBSYS_NFTABLES`, `NFNL_MSG_BATCH_BEGIN`, `NFNL_MSG_BATCH_END`, `NFNL_BATCH_GENID` (linux/netfilter/nfnetlink.h).
pub const NFTABLES: u8 = 10;
pub const BATCH_BEGIN: u8 = 0x10;
pub const BATCH_END: u8 = 0x11;
pub const BATCH_GENID: u16 = 1;
/// `NFPROTO_INET` (linux/netfilter.h).
pub const INET: u8 = 1;

/// `enum nf_tables_msg_types`.
pub mod message {
    pub const NEW_TABLE: u8 = 0;
    pub const GET_TABLE: u8 = 1;
    pub const DEL_TABLE: u8 = 2;
    pub const NEW_CHAIN: u8 = 3;
    pub const GET_CHAIN: u8 = 4;
    pub const DEL_CHAIN: u8 = 5;
    pub const NEW_RULE: u8 = 6;
    pub const GET_RULE: u8 = 7;
    pub const DEL_RULE: u8 = 8;
    pub const NEW_SET: u8 = 9;
    pub const GET_SET: u8 = 10;
    pub const DEL_SET: u8 = 11;
    pub const NEW_ELEMENT: u8 = 12;
    pub const GET_ELEMENT: u8 = 13;
    pub const DEL_ELEMENT: u8 = 14;
    pub const GET_GENERATION: u8 = 16;
    pub const NEW_OBJECT: u8 = 18;
    pub const GET_OBJECT: u8 = 19;
    pub const DEL_OBJECT: u8 = 20;
    pub const GET_FLOW_TABLE: u8 = 23;
    pub const DEL_FLOW_TABLE: u8 = 24;
}

/// `NFTA_GEN_ID`.
pub const GENERATION_ID: u16 = 1;
/// `NFTA_LIST_ELEM`: each of a list.
pub const LIST_ELEMENT: u16 = 1;

/// `enum nft_table_attributes`.
pub mod table {
    pub const NAME: u16 = 1;
    pub const FLAGS: u16 = 2;
    pub const USERDATA: u16 = 6;
    /// `enum nft_table_flags`.
    pub const DORMANT: u32 = 1;
    pub const OWNER: u32 = 2;
}

/// `enum nft_chain_attributes`.
pub mod chain {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 3;
    pub const HOOK: u16 = 4;
    pub const POLICY: u16 = 5;
    pub const TYPE: u16 = 7;
    pub const FLAGS: u16 = 10;
    /// `enum nft_hook_attributes`.
    pub const HOOK_NUMBER: u16 = 1;
    pub const HOOK_PRIORITY: u16 = 2;
    /// `enum nft_chain_flags`.
    pub const BASE: u32 = 1;
    pub const BINDING: u32 = 4;
}

/// `enum nft_rule_attributes`.
pub mod rule {
    pub const TABLE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const EXPRESSIONS: u16 = 4;
    pub const USERDATA: u16 = 7;
}

/// `enum nft_set_attributes`.
pub mod set {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const KEY_TYPE: u16 = 4;
    pub const KEY_LENGTH: u16 = 5;
    pub const DATA_TYPE: u16 = 6;
    pub const DATA_LENGTH: u16 = 7;
    pub const DESCRIPTION: u16 = 9;
    pub const ID: u16 = 10;
    pub const TIMEOUT: u16 = 11;
    pub const USERDATA: u16 = 13;
    pub const EXPRESSION: u16 = 17;
    pub const EXPRESSIONS: u16 = 18;
    /// `enum nft_set_desc_attributes`.
    pub const DESCRIPTION_SIZE: u16 = 1;
    /// `enum nft_set_flags`.
    pub const ANONYMOUS: u32 = 1;
    pub const CONSTANT: u32 = 2;
    pub const INTERVAL: u32 = 4;
    pub const MAP: u32 = 8;
    pub const EXPIRES: u32 = 0x10;
    pub const DYNAMIC: u32 = 0x20;
    /// `NFT_DATA_VERDICT`.
    pub const VERDICTS: u32 = 0xffff_ff00;
}

/// `enum nft_set_elem_list_attributes` and `enum nft_set_elem_attributes`.
pub mod element {
    pub const TABLE: u16 = 1;
    pub const SET: u16 = 2;
    pub const ELEMENTS: u16 = 3;
    pub const SET_ID: u16 = 4;
    pub const KEY: u16 = 1;
    pub const DATA: u16 = 2;
    pub const FLAGS: u16 = 3;
    pub const TIMEOUT: u16 = 4;
    pub const EXPIRATION: u16 = 5;
    pub const USERDATA: u16 = 6;
    pub const PAD: u16 = 8;
    /// `NFT_SET_ELEM_INTERVAL_END`.
    pub const END: u32 = 1;
}

/// `enum nft_object_attributes`.
pub mod object {
    pub const TABLE: u16 = 1;
    pub const NAME: u16 = 2;
    pub const TYPE: u16 = 3;
    pub const DATA: u16 = 4;
    /// `NFT_OBJECT_COUNTER`.
    pub const COUNTER: u32 = 1;
    /// Those that let some packets go on and others not: `NFT_OBJECT_QUOTA`, `_LIMIT`, `_CONNLIMIT` and `_SYNPROXY`.
    pub const DECIDE: [u32; 4] = [2, 4, 5, 10];
    /// `enum nft_flowtable_attributes`.
    pub const FLOW_TABLE: u16 = 1;
    pub const FLOW_TABLE_NAME: u16 = 2;
    /// `enum nft_counter_attributes`.
    pub const BYTES: u16 = 1;
    pub const PACKETS: u16 = 2;
}

/// `enum nft_data_attributes`, `enum nft_verdict_attributes` and `enum nft_verdicts` with `NF_*` (linux/netfilter.h).
pub mod data {
    pub const VALUE: u16 = 1;
    pub const VERDICT: u16 = 2;
    pub const CODE: u16 = 1;
    pub const CHAIN: u16 = 2;
    pub const DROP: i32 = 0;
    pub const ACCEPT: i32 = 1;
    pub const JUMP: i32 = -3;
    pub const GOTO: i32 = -4;
    pub const RETURN: i32 = -5;
}

/// `enum nft_*_attributes` of each expression, in the order of `nft::Expression`.
pub mod expression {
    pub const NAME: u16 = 1;
    pub const DATA: u16 = 2;

    pub const PAYLOAD_TO: u16 = 1;
    pub const PAYLOAD_BASE: u16 = 2;
    pub const PAYLOAD_OFFSET: u16 = 3;
    pub const PAYLOAD_LENGTH: u16 = 4;

    /// Of `meta`, and the same of `ct`.
    pub const META_TO: u16 = 1;
    pub const META_KEY: u16 = 2;

    pub const FIB_TO: u16 = 1;
    pub const FIB_RESULT: u16 = 2;
    pub const FIB_FLAGS: u16 = 3;

    pub const BITWISE_FROM: u16 = 1;
    pub const BITWISE_TO: u16 = 2;
    pub const BITWISE_LENGTH: u16 = 3;
    pub const BITWISE_MASK: u16 = 4;
    pub const BITWISE_XOR: u16 = 5;
    /// 0 (`NFT_BITWISE_MASK_XOR`) where it is not said.
    pub const BITWISE_OPERATION: u16 = 6;

    pub const COMPARE_FROM: u16 = 1;
    pub const COMPARE_HOW: u16 = 2;
    pub const COMPARE_DATA: u16 = 3;

    pub const LOOKUP_SET: u16 = 1;
    pub const LOOKUP_FROM: u16 = 2;
    pub const LOOKUP_TO: u16 = 3;
    pub const LOOKUP_SET_ID: u16 = 4;
    /// 1 is `NFT_LOOKUP_F_INV`.
    pub const LOOKUP_FLAGS: u16 = 5;

    pub const IMMEDIATE_TO: u16 = 1;
    pub const IMMEDIATE_DATA: u16 = 2;

    pub const OBJECT_TYPE: u16 = 1;
    pub const OBJECT_NAME: u16 = 2;

    pub const LIMIT_RATE: u16 = 1;
    pub const LIMIT_UNIT: u16 = 2;
    pub const LIMIT_BURST: u16 = 3;
    /// 0 (`NFT_LIMIT_PKTS`) where it is not said.
    pub const LIMIT_TYPE: u16 = 4;
    /// 1 is `NFT_LIMIT_F_INV`.
    pub const LIMIT_FLAGS: u16 = 5;
    pub const LIMIT_PAD: u16 = 6;

    pub const LOG_GROUP: u16 = 1;
    pub const LOG_PREFIX: u16 = 2;

    /// 0 (`NFT_NAT_SNAT`) or 1 (`NFT_NAT_DNAT`).
    pub const NAT_TYPE: u16 = 1;
    pub const NAT_FAMILY: u16 = 2;
    pub const NAT_ADDRESS: u16 = 3;
    pub const NAT_ADDRESS_LAST: u16 = 4;
    pub const NAT_PORT: u16 = 5;
    pub const NAT_PORT_LAST: u16 = 6;
    pub const NAT_FLAGS: u16 = 7;
    /// `NF_NAT_RANGE_MAP_IPS` and `NF_NAT_RANGE_PROTO_SPECIFIED` (linux/netfilter/nf_nat.h): an address, a port.
    pub const NAT_MAPS_ADDRESS: u32 = 1;
    pub const NAT_MAPS_PORT: u32 = 2;

    pub const UPDATE_SET: u16 = 1;
    /// 1 is `NFT_DYNSET_OP_UPDATE`.
    pub const UPDATE_OPERATION: u16 = 3;
    pub const UPDATE_KEY: u16 = 4;
    pub const UPDATE_TIMEOUT: u16 = 6;
    pub const UPDATE_EXPRESSION: u16 = 7;
    pub const UPDATE_PAD: u16 = 8;
    pub const UPDATE_FLAGS: u16 = 9;
    /// `NFT_DYNSET_F_EXPR`.
    pub const UPDATE_HAS_EXPRESSION: u32 = 2;
}

/// What only other people's tables have.
pub mod others {
    /// `NFPROTO_IPV4` and `NFPROTO_IPV6` (linux/netfilter.h).
    pub const IPV4: u8 = 2;
    pub const IPV6: u8 = 10;
    /// The register that `meta` and `ct` load to.
    pub const TO: u16 = 1;
    /// What they set comes from a register, too.
    pub const META_FROM: u16 = 3;
    pub const CT_FROM: u16 = 4;
    /// `enum nft_meta_keys`.
    pub const META_PROTOCOL: u32 = 1;
    pub const META_IIF: u32 = 4;
    pub const META_OIF: u32 = 5;
    /// `enum nft_ct_keys`, and which way is asked about.
    pub const CT_DIRECTION: u32 = 1;
    pub const CT_DESTINATION_PORT: u32 = 12;
    pub const CT_WAY: u16 = 3;
    /// `enum nft_range_attributes`; 1 is `NFT_RANGE_NEQ`.
    pub const RANGE_FROM: u16 = 1;
    pub const RANGE_HOW: u16 = 2;
    pub const RANGE_FIRST: u16 = 3;
    pub const RANGE_LAST: u16 = 4;
    /// `match` and `target` (linux/netfilter/nf_tables_compat.h).
    pub const X_NAME: u16 = 1;
    pub const X_REVISION: u16 = 2;
    pub const X_INFO: u16 = 3;
}

/// What nft keeps beside the kernel's own, byte by byte type, length and value (libnftnl, include/libnftnl/udata.h).
pub mod userdata {
    /// `NFTNL_UDATA_TABLE_COMMENT` and `NFTNL_UDATA_RULE_COMMENT`: text that ends in NUL.
    pub const COMMENT: u8 = 0;
    /// `NFTNL_UDATA_SET_KEYBYTEORDER` and `NFTNL_UDATA_SET_DATABYTEORDER`: `enum byteorder` (nftables, include/datatype.h).
    pub const KEY_ORDER: u8 = 0;
    pub const DATA_ORDER: u8 = 1;
    pub const NO_ORDER: u32 = 0;
    pub const HOST_ORDER: u32 = 1;
    pub const NETWORK_ORDER: u32 = 2;
}
