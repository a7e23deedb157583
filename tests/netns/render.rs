//! What `wire render` prints, against what `wire up` does.

use crate::host::Host;
use crate::world::{pluto, small};

/// What nft lists at a node, its blocks in order: those of a table come as they were made.
fn listed(host: &Host, node: &str) -> Vec<String> {
    let text = host.run(node, &["nft", "-s", "list", "table", "inet", "wire"]).expect(0).stdout;
    let body = text.strip_prefix("table inet wire {\n\tcomment \"wire\"\n").and_then(|rest| rest.strip_suffix("}\n"));
    let mut blocks: Vec<String> =
        body.expect("a table").split("\n\n").map(|block| block.trim_end().to_owned()).collect();
    blocks.sort();
    blocks
}

/// The text of a node's rules, loaded by nft where there are none, lists as the rules that `up` has put into the node.
#[test]
fn nft_reads_what_is_rendered() {
    for world in [pluto(), small()] {
        let host = world.host();
        host.wire(&["up"]).expect(0);
        for node in &world.nodes {
            let text = host.wire(&["render", "nft", node]).expect(0).stdout;
            assert!(text.starts_with(&format!("# {node}\ntable inet wire {{\n")), "{text}");
            host.write("/run/rules.nft", &text);
            host.sh("ip netns add scratch; ip netns exec scratch nft -f /run/rules.nft");
            assert_eq!(listed(&host, "scratch"), listed(&host, node), "{node}");
            host.sh("ip netns delete scratch");
        }
    }
}

/// Without a node all are printed, each under its name; a node that is none is told; `--json` holds the same text.
#[test]
fn all_nodes_are_rendered() {
    let world = pluto();
    let host = Host::with(&[], &world.topology);
    let all = host.wire(&["render", "nft"]).expect(0).stdout;
    let heads: Vec<&str> = all.lines().filter_map(|line| line.strip_prefix("# ")).collect();
    let mut nodes: Vec<&str> = world.nodes.iter().copied().chain(["host"]).collect();
    nodes.sort_unstable();
    assert_eq!(heads, nodes);
    let json = host.wire(&["--json", "render", "nft", "host"]).expect(0).json();
    let text = host.wire(&["render", "nft", "host"]).expect(0).stdout;
    assert_eq!(json["nft"]["host"].as_str().map(|rules| format!("# host\n{rules}")).as_deref(), Some(&*text));
    assert!(all.contains(&text));
    let unknown = host.wire(&["render", "nft", "hots"]).expect(2);
    assert!(unknown.stdout.is_empty() && unknown.stderr.contains("did you mean `host`?"), "{unknown:?}");
}
