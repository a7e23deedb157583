mod error;
mod topology;
fn main() {}
