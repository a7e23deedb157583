//! The built binary in a pretend host on a real kernel, observed by `ip`, `nft` and packets, never by `wire` itself.

#![expect(clippy::print_stderr, reason = "a failing test says more than its panic")]

mod boundary;
mod caddy;
mod cases;
mod certs;
mod churn;
mod cli;
mod coexist;
mod confirm;
mod crash;
mod device;
mod down;
mod generated;
mod hand;
mod hook;
mod host;
mod house;
mod hub;
mod ipv6;
mod lab;
mod leak;
mod log;
mod naive;
mod nameserver;
mod order;
mod owned;
mod packet;
mod peer;
mod podhouse;
mod podman;
mod power;
mod prober;
mod prove;
mod proxy;
mod render;
mod repair;
mod script;
mod sets;
mod strangers;
mod threats;
mod truth;
mod tunnel;
mod up;
mod watch;
mod world;
