#![allow(dead_code)]
mod desired;
mod error;
mod kernel;
mod parse;
mod plan;
mod state;
mod target;
mod topology;
fn main() {}
