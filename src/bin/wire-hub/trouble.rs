//! What can go wrong in a hub: a sentence in the user's names.

use std::fmt::Display;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(pub String);

/// Puts what was tried in front of the system's own words.
pub trait Context<T> {
    fn context(self, tried: impl Display) -> Result<T, Trouble>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, tried: impl Display) -> Result<T, Trouble> {
        self.map_err(|cause| {
            let cause = cause.to_string();
            // The number that the standard library adds says nothing that the words do not.
            let words = cause.rsplit_once(" (os error ").map_or(cause.as_str(), |(words, _)| words);
            Trouble(format!("{tried}: {words}"))
        })
    }
}
