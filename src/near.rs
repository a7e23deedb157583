//! What a misspelt word may have meant, and how words of the file are shown in messages. No TOML, no topology.

/// Longer words are not compared: no name is longer, and comparing takes time by the square.
const LONGEST: usize = 128;

/// The known word that a misspelt one most likely means: the same in other letters, one few keystrokes away, or one that is
/// longer by a part of its own (`darkroom` for `lbmt-darkroom`).
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > LONGEST {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let word = plain(word);
    let letters = word.chars().count();
    let reach = if letters == 1 { 0 } else { (letters / 3).clamp(1, 3) };
    let distance = |known: &'a str| {
        let other = plain(known);
        let contains = word.len() >= 4 && other.split('-').count() > 1 && other.ends_with(&format!("-{word}"));
        (if contains { reach } else { strsim::damerau_levenshtein(&word, &other) }, known)
    };
    let near = known.into_iter().filter(|known| known.len() <= LONGEST).map(distance);
    near.filter(|(distance, _)| *distance <= reach).min().map(|(_, known)| known)
}

/// The hint that goes with a word nobody knows: what it may have meant, else what to do instead.
pub fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>, instead: impl Into<String>) -> String {
    match nearest(word, known) {
        Some(near) => format!("did you mean `{near}`?"),
        None => instead.into(),
    }
}

/// A word of the file as it may stand in a message: on one line, not too long, without control characters.
pub fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let mut shown = String::new();
    for c in text.chars().take(MOST) {
        if c == '"' || c == '\'' { shown.push(c) } else { shown.extend(c.escape_debug()) }
    }
    if text.chars().nth(MOST).is_some() { shown + "…" } else { shown }
}
