//! The command line: words, help texts, and nothing that acts on them.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

/// Where the topology is when nobody says otherwise.
const TOPOLOGY: &str = "/etc/wire/topology.toml";

/// Wire containers exactly as one file says
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "A TARGET is a module, a node or a wire; where one name is several of these, `module:NAME`, `node:NAME`, \
                  `wire:NAME` say which.\n\nExit codes: 0 done or in accord, 1 failed, 2 wrong usage or invalid topology, \
                  3 a difference (plan, audit, prove) or denied (why)."
)]
pub struct Cli {
    /// The topology file; else $WIRE_TOPOLOGY, else /etc/wire/topology.toml
    #[arg(short, long, global = true, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print JSON to stdout
    #[arg(long, global = true)]
    pub json: bool,
    /// When to colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub color: Colour,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say more
    #[arg(short, long, global = true)]
    pub verbose: bool,
    /// As root, accept a file that belongs to USER
    #[arg(long, global = true, value_name = "USER")]
    pub trust_owner: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The topology file that is meant.
    pub fn topology(&self) -> PathBuf {
        self.named().unwrap_or_else(|| TOPOLOGY.into())
    }

    /// Whether it is another than the usual one.
    pub fn names_topology(&self) -> bool {
        self.named().is_some()
    }

    /// A variable that is empty says nothing.
    fn named(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os("WIRE_TOPOLOGY").filter(|path| !path.is_empty()).map(PathBuf::from);
        self.file.clone().or_else(variable)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Colour {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Read and validate the file, touch nothing; -v says every flow as a sentence
    Check,
    /// Write the next free subnet into the file wherever a wire has none
    Number,
    /// Show every change `up` would make, with its reason
    Plan(Targets),
    /// Make the kernel match the file, by the fewest changes
    Up {
        #[command(flatten)]
        targets: Targets,
        /// Fail where a wire waits for a node that does not run
        #[arg(long)]
        strict: bool,
        /// Undo it again after that time (`60s`, `5m`), unless `wire confirm` comes before
        #[arg(long, value_name = "DURATION")]
        confirm: Option<String>,
    },
    /// Keep what `up --confirm` has changed
    Confirm,
    /// Stay, and keep the kernel true to the file
    Watch {
        /// Leave the hubs that wire runs to services of their own (`wire-hub@NAME`)
        #[arg(long)]
        no_hubs: bool,
    },
    /// Serve a hub, its VPN and its reverse proxy, until told to end; for the init system to supervise
    Hub {
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Remove what wire made, and nothing else
    Down(Targets),
    /// List live links and every deviation from the file
    Audit {
        #[command(flatten)]
        targets: Targets,
        /// List what is reachable from outside instead, and where it ends
        #[arg(long)]
        published: bool,
    },
    /// Send real packets between all nodes and compare what passes with what the file says
    Prove(Targets),
    /// Say from the file whether A may reach B
    Why {
        /// A node, a VPN peer, `host` or `outside`
        #[arg(value_name = "A")]
        from: String,
        /// The same; without a port, by any flow
        #[arg(value_name = "B[:PROTO/PORT]")]
        to: String,
    },
    /// Print packets as they are denied (and those of flows with `log = true`), each with the line that would allow it
    Log(Targets),
    /// Turn what wires in audit mode let pass into flows to write
    Suggest,
    /// Print what would be installed
    Render {
        #[command(subcommand)]
        what: Render,
    },
    /// Edit an address set at run time
    Set {
        #[command(subcommand)]
        verb: SetVerb,
    },
    /// VPN peers
    Peer {
        #[command(subcommand)]
        verb: PeerVerb,
    },
    /// Have the init system run `up` at boot and keep `watch` running
    Service {
        #[command(subcommand)]
        verb: ServiceVerb,
    },
    /// Build the whole topology in throw-away namespaces, prove and audit it there; needs no root and no containers
    Lab {
        /// The node that the command runs in, or `outside`
        #[arg(long = "in", value_name = "NODE", default_value = crate::topology::HOST)]
        node: String,
        /// Run this inside and pass on its exit code
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Wire a container before its first instruction, as an OCI hook
    Hook {
        #[command(subcommand)]
        verb: HookVerb,
    },
    /// Print the completions for a shell
    Completions { shell: Shell },
    /// Print the manual page
    Man,
}

#[derive(Debug, Subcommand)]
pub enum Render {
    /// The rules of a node, or of all, as `nft -f` loads them
    Nft {
        #[arg(value_name = "NODE")]
        node: Option<String>,
    },
    /// Lines of /etc/hosts for a node: those it has a wire to, and the sites of a hub that it may ask
    Hosts {
        #[arg(value_name = "NODE")]
        node: String,
    },
    /// What a VPN peer's own device is to be told; its private key is for the device to fill in
    Wireguard {
        #[arg(value_name = "PEER")]
        peer: String,
        /// Print a code to scan instead
        #[arg(long)]
        qr: bool,
    },
    /// The sites of a hub, or of all, as a Caddyfile for who keeps Caddy in the hub's container
    Caddy {
        #[arg(value_name = "HUB")]
        hub: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum PeerVerb {
    /// Make keys, take the next free address, write the file, and print what the peer's own device is to be told
    Add {
        #[arg(value_name = "NAME")]
        peer: String,
        /// The hub it dials; needed where several have a tunnel
        #[arg(long, value_name = "HUB")]
        hub: Option<String>,
        /// A module, node or wire that it may reach, or `*` for everything; may be said again
        #[arg(long, value_name = "X")]
        allow: Vec<String>,
        /// Print a code to scan instead
        #[arg(long)]
        qr: bool,
    },
    /// List the peers of the file, each with its address, its hub and what it may reach
    List,
}

#[derive(Debug, Subcommand)]
pub enum SetVerb {
    /// Add addresses and prefixes; without --for they stay until they are deleted, over a reboot too
    Add {
        #[arg(value_name = "NAME")]
        set: String,
        #[arg(value_name = "ADDR", required = true)]
        addresses: Vec<String>,
        /// How long they stay: `30s`, `5m`, `1h`, `1d`
        #[arg(long = "for", value_name = "DURATION")]
        term: Option<String>,
    },
    /// Delete what was added
    Del {
        #[arg(value_name = "NAME")]
        set: String,
        #[arg(value_name = "ADDR", required = true)]
        addresses: Vec<String>,
    },
    /// List a set, one element a line, with where it comes from and how long it stays
    List {
        #[arg(value_name = "NAME")]
        set: String,
    },
    /// Read files and look up names again; of all sets where none is named
    Refresh {
        #[arg(value_name = "NAME")]
        sets: Vec<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum HookVerb {
    /// For the OCI runtime: wire the container that it tells of on stdin
    #[command(name = "createRuntime")]
    CreateRuntime(HookTerms),
    /// For podman: remove what is left of the wires of a container that has ended
    #[command(name = "poststop")]
    Poststop(HookTerms),
    /// Have podman run the hook for every container: root's, or one's own
    Install(HookTerms),
    /// Have podman run the hook no more
    Remove,
}

#[derive(Args, Debug)]
pub struct HookTerms {
    /// How long a container may have to wait for its wires, at most
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub wait: String,
    /// A container that cannot be wired does not start
    #[arg(long)]
    pub strict: bool,
}

#[derive(Debug, Subcommand)]
pub enum ServiceVerb {
    /// Put the services in place, enable and start them; -f and --trust-owner are kept for them
    Install,
    /// Stop and disable the services, delete what `install` wrote; wires stay
    Remove,
    /// Say what is installed, enabled and running
    Status,
}

#[derive(Args, Debug)]
pub struct Targets {
    /// Modules, nodes or wires; everything where none is named
    #[arg(value_name = "TARGET")]
    pub targets: Vec<String>,
}
