use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::*;
use crate::desired;
use crate::parse;
use crate::sets::{self, Contents};

/// The examples whose rules are kept as text, one file a namespace, to be read like code.
const SHOWN: [&str; 2] = ["hubs", "pluto"];

/// What `nft/` must hold.
fn wanted() -> BTreeMap<PathBuf, String> {
    let mut wanted = BTreeMap::new();
    for example in SHOWN {
        let file = root().join("topology").join(example).with_extension("toml");
        let topology = parse::topology(&std::fs::read_to_string(file).unwrap()).unwrap();
        let sets = topology.sets.iter().map(|(name, set)| {
            let elements = set.elements.iter().map(|network| (*network, None)).collect();
            (name.clone(), Contents { elements })
        });
        let ranges = sets::ranges(&sets.collect());
        for (node, text) in nft(&Rules::of(&topology, &ranges), &desired::namespaces(&topology)) {
            wanted.insert(PathBuf::from(example).join(format!("{node}.nft")), text);
        }
    }
    wanted
}

/// What it holds.
fn kept() -> BTreeMap<PathBuf, String> {
    let mut kept = BTreeMap::new();
    let Ok(folders) = std::fs::read_dir(root().join("nft")) else { return kept };
    for folder in folders.map(|folder| folder.unwrap().path()) {
        for file in std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()) {
            let name = file.strip_prefix(root().join("nft")).unwrap().to_owned();
            kept.insert(name, std::fs::read_to_string(file).unwrap());
        }
    }
    kept
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `UPDATE_GOLDEN=1` writes them anew.
#[test]
fn the_rules_of_the_examples_are_as_they_were_read() {
    let wanted = wanted();
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        let _ = std::fs::remove_dir_all(root().join("nft"));
        for (name, text) in &wanted {
            let file = root().join("nft").join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
    }
    let kept = kept();
    let mut wrong: Vec<String> = (wanted.iter())
        .filter_map(|(name, text)| match kept.get(name) {
            None => Some(format!("{} is missing", name.display())),
            Some(kept) => kept.lines().zip(text.lines()).enumerate().find(|(_, (kept, now))| kept != now).map_or_else(
                || (kept != text).then(|| format!("{} has another length", name.display())),
                |(nth, (kept, now))| Some(format!("{}:{}:\n-{kept}\n+{now}", name.display(), nth + 1)),
            ),
        })
        .collect();
    wrong.extend(
        kept.keys()
            .filter(|name| !wanted.contains_key(*name))
            .map(|name| format!("{} is of no example", name.display())),
    );
    assert!(wrong.is_empty(), "in nft/ (UPDATE_GOLDEN=1 writes it anew, to be read):\n{}", wrong.join("\n"));
}
