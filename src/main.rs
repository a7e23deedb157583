#![allow(dead_code, unused_imports, reason = "nothing is connected yet")]

mod error;
mod parse;
mod topology;

fn main() {}
