mod error;
mod parse;
mod topology;
fn main() {}
