//! Where podman looks for hooks, by its configuration: containers.conf(5). Later files replace what earlier ones say.

use std::path::{Path, PathBuf};

use toml::de::DeTable;

/// The folders of `[engine] hooks_dir` as these texts say together, the first read first; none where none of them says
/// so.
pub fn hooks_dirs<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<Vec<PathBuf>> {
    let mut known = None;
    for text in texts {
        let Some((dirs, append)) = of(text) else { continue };
        match (append, &mut known) {
            (true, Some(known)) => Vec::extend(known, dirs),
            _ => known = Some(dirs),
        }
    }
    // An empty list is as good as none: podman has its own then.
    known.filter(|dirs| !dirs.is_empty())
}

/// What one file says, and whether that is in addition (`{append=true}` in the list, since podman 4.8).
fn of(text: &str) -> Option<(Vec<PathBuf>, bool)> {
    // What podman cannot read either counts for nothing.
    let file = DeTable::parse(text).ok()?;
    let list = file.get_ref().get("engine")?.get_ref().get("hooks_dir")?.get_ref().as_array()?;
    let dirs = list.iter().filter_map(|item| item.get_ref().as_str()).map(PathBuf::from);
    let append =
        list.iter().any(|item| item.get_ref().get("append").and_then(|yes| yes.get_ref().as_bool()) == Some(true));
    Some((dirs.filter(|dir| dir.is_absolute()).collect(), append))
}

/// A file that adds a folder to these.
pub fn drop_in(dirs: &[PathBuf], own: &Path) -> String {
    let dirs = dirs.iter().map(PathBuf::as_path).filter(|dir| *dir != own).chain([own]);
    let words: Vec<String> = dirs.map(|dir| quoted(&dir.to_string_lossy())).collect();
    format!("{OURS}\n[engine]\nhooks_dir = [{}]\n", words.join(", "))
}

/// The first line of what `wire` wrote.
pub const OURS: &str = "# Written by `wire hook install`; `wire hook remove` takes it away.";

/// A string of TOML. One of JSON is one, but for DEL.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_file_wins() {
        let dirs = |texts: &[&str]| {
            let dirs = hooks_dirs(texts.iter().copied())?;
            Some(dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" "))
        };
        let engine = |list: &str| format!("[engine]\nhooks_dir = {list}\n");
        assert_eq!(dirs(&[]), None);
        assert_eq!(dirs(&["[engine]\n#hooks_dir = [\"/x\"]\n", "[containers]\n"]), None);
        assert_eq!(dirs(&[&engine("[\"/a\", \"/b\"]")]), Some("/a /b".into()));
        assert_eq!(dirs(&[&engine("[\"/a\"]"), "[network]\n", &engine("[\"/b\"]")]), Some("/b".into()));
        assert_eq!(dirs(&[&engine("[\"/a\"]"), &engine("[\"/b\", {append=true}]")]), Some("/a /b".into()));
        assert_eq!(dirs(&[&engine("[\"/a\"]"), &engine("[]")]), None);
    }

    #[test]
    fn what_is_no_list_of_folders_says_nothing() {
        for text in
            ["", "[engine", "engine = 1", "[engine]\nhooks_dir = \"/a\"", "[engine]\nhooks_dir = [1, \"relative\"]"]
        {
            assert_eq!(hooks_dirs([text]), None, "{text}");
        }
    }

    #[test]
    fn a_drop_in_says_what_was_said_and_one_more() {
        let text = drop_in(&["/etc/hooks".into(), "/home/a\"\u{7f}/own".into()], Path::new("/home/b/own"));
        let dirs = hooks_dirs([text.as_str()]).unwrap();
        assert_eq!(dirs, ["/etc/hooks", "/home/a\"\u{7f}/own", "/home/b/own"].map(PathBuf::from));
        assert_eq!(drop_in(&dirs, Path::new("/home/b/own")), text, "twice is once");
        assert!(text.starts_with(OURS));
    }
}
