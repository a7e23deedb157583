use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use super::*;
use crate::kernel::run::RunDirectory;
use crate::kernel::store::Store;

/// A directory that goes away with the test, and a lock in it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> (Place, Lock) {
        let place = std::env::temp_dir().join(format!("wire-keys-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&place);
        fs::create_dir(&place).unwrap();
        let run = Store::open(place.join("run").to_str().unwrap(), Mode::S_IRWXU).unwrap();
        (Place(place), RunDirectory(run).lock(|| {}).unwrap())
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn file(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// As `wg pubkey` has it.
#[test]
fn a_public_key_is_that_of_its_private_one() {
    let private = Secret("BwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJSY=".to_owned());
    let mut clamped = bytes(&private).unwrap();
    clamp(&mut clamped);
    assert_ne!(secret(&clamped), private);
    for key in [private, secret(&clamped)] {
        assert_eq!(public(&key).as_deref(), Some("B7jFQkh2hqeDAYVfy20/aoqRHNfxmDqbRNydzSKDnSM="));
    }
    assert_eq!(public(&Secret("no key".to_owned())), None);
}

#[test]
fn a_key_is_made_once_and_is_its_owners_alone() {
    let (place, lock) = Place::new("make");
    let path = place.path("keys/hub");
    assert_eq!(private(&path), Ok(None));
    let key = make(&path, &lock).unwrap();
    assert_eq!(private(&path), Ok(Some(key.clone())));
    let mode = |path: &str| fs::metadata(place.path(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("keys"), mode("keys/hub")), (0o700, 0o600));
    assert_eq!(fs::read_dir(place.path("keys")).unwrap().count(), 1, "nothing else is left");
    assert!(make(&path, &lock).unwrap_err().message.contains("exists"), "it is not replaced");
    assert_eq!(private(&path), Ok(Some(key.clone())));
    assert_ne!(make(&place.path("keys/other"), &lock).unwrap(), key);
    // What a kill has left.
    place.file("keys/.third.new", "half", 0o600);
    make(&place.path("keys/third"), &lock).unwrap();
    assert_eq!(fs::read_dir(place.path("keys")).unwrap().count(), 3);
    let error = format!("{:?}", make(&place.path("run/../keys/hub"), &lock));
    assert!(!error.contains(&key.0) && format!("{key:?}") == "(secret)");
}

#[test]
fn files_that_are_no_secret_are_refused() {
    let (place, lock) = Place::new("refuse");
    let text = make(&place.path("keys/hub"), &lock).unwrap().0;
    for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o660, false), (0o610, false)] {
        let path = place.file("key", &text, mode);
        let read = private(&path);
        assert_eq!(read.is_ok(), fine, "{mode:o}");
        if let Err(error) = read {
            assert_eq!(error.exit as u8, 1);
            assert!(error.hint.unwrap().contains(&format!("chmod 600 {path}")));
        }
        fs::remove_file(path).unwrap();
    }
    symlink(place.path("keys/hub"), place.path("link")).unwrap();
    assert!(private(&place.path("link")).unwrap_err().message.ends_with("is a link"));
    assert!(private(&place.path("keys")).unwrap_err().message.ends_with("is no plain file"));
    nix::unistd::mkfifo(&*place.path("pipe"), Mode::S_IRUSR).unwrap();
    assert!(private(&place.path("pipe")).unwrap_err().message.ends_with("is no plain file"));
    // A place that others may write to holds no new key.
    fs::create_dir(place.path("open")).unwrap();
    fs::set_permissions(place.path("open"), PermissionsExt::from_mode(0o777)).unwrap();
    assert!(make(&place.path("open/hub"), &lock).unwrap_err().message.contains("others may write to"));
}

#[test]
fn only_whole_keys_are_keys() {
    let (place, lock) = Place::new("text");
    let key = make(&place.path("keys/hub"), &lock).unwrap();
    let text = &key.0;
    for (what, fine) in [
        (text.clone(), true),
        (format!("{text}\n"), true),
        (format!("  {text}\r\n"), true),
        (String::new(), false),
        (text[..43].to_owned(), false),
        (format!("{text}\n{text}\n"), false),
        (format!("{text}A"), false),
        ("A".repeat(5000), false),
        (text.replace('=', "!"), false),
    ] {
        let path = place.file("key", &what, 0o600);
        assert_eq!(private(&path).is_ok(), fine, "{what:?}");
        assert_eq!(preshared(&path).is_ok(), fine, "{what:?}");
        if let Err(error) = private(&path) {
            assert!(what.is_empty() || !format!("{error:?}").contains(&what[..43]), "a key is not said");
        }
    }
    let zeroes = place.file("key", &secret(&[0; 32]).0, 0o600);
    assert!(preshared(&zeroes).unwrap_err().message.contains("holds zeroes"));
    let missing = preshared(&place.path("none")).unwrap_err();
    assert!(missing.message.starts_with("there is no preshared key") && missing.hint.unwrap().contains("wg genpsk"));
}
