//! The only folder with side effects: what is asked of and done to the system. Nothing here knows the topology file.

pub mod podman;
mod process;
mod program;
mod sys;
mod user;
