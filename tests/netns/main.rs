//! The built binary in a pretend host on a real kernel, observed by `ip`, `nft` and packets, never by `wire` itself.

mod boundary;
mod cli;
mod crash;
mod down;
mod host;
mod ipv6;
mod lab;
mod podman;
mod repair;
mod script;
mod strangers;
mod up;
mod world;
