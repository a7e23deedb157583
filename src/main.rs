#![allow(dead_code)]
mod desired;
mod error;
mod kernel;
mod plan;
mod state;
mod target;
mod topology;
fn main() {}
