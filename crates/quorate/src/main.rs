//! quorate.
fn main() {}
