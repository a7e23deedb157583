//! The built binary in a pretend host on a real kernel, observed by `ip`, `nft` and packets, never by `wire` itself.

#![expect(clippy::print_stderr, reason = "a failing test says more than its panic")]

mod boundary;
mod cli;
mod crash;
mod down;
mod host;
mod ipv6;
mod lab;
mod podman;
mod render;
mod repair;
mod script;
mod strangers;
mod up;
mod world;
