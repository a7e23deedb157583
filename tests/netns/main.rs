//! The built binary in a pretend host on a real kernel, observed by `ip`, `nft` and packets, never by `wire` itself.

mod host;
mod world;
