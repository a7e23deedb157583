//! What can go wrong, as values: a sentence in the user's names, a hint with the next move, and a kind that decides the exit
//! code. Nothing here prints.

use std::fmt;

use crate::topology::Place;

/// The exit codes of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done, or in accord; for `why`, allowed.
    Done = 0,
    /// Failed; what was done is said, and running it again is safe.
    Failed = 1,
    /// Wrong usage or an invalid topology.
    Invalid = 2,
    /// A difference between file and kernel; for `why`, denied.
    Differs = 3,
}

/// Why a command ended without doing what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub exit: Exit,
    pub message: String,
    pub hint: Option<String>,
}

impl Error {
    pub fn failed(message: impl Into<String>) -> Error {
        Error { exit: Exit::Failed, message: message.into(), hint: None }
    }

    pub fn invalid(message: impl Into<String>) -> Error {
        Error { exit: Exit::Invalid, message: message.into(), hint: None }
    }

    pub fn hint(self, hint: impl Into<String>) -> Error {
        Error { hint: Some(hint.into()), ..self }
    }
}

/// Puts what was tried in front of the system's own words.
pub trait Context<T> {
    fn context(self, tried: impl fmt::Display) -> Result<T, Error>;
}

impl<T, E: fmt::Display> Context<T> for Result<T, E> {
    fn context(self, tried: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|cause| {
            let cause = cause.to_string();
            // The number that the standard library adds says nothing that the words do not.
            let words = cause.rsplit_once(" (os error ").map_or(cause.as_str(), |(words, _)| words);
            Error::failed(format!("{tried}: {words}"))
        })
    }
}

/// One thing that is wrong in a topology file.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub place: Place,
    pub message: String,
    pub hint: Option<String>,
}
