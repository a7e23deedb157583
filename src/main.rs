mod error;
mod kernel;
mod topology;
fn main() {}
