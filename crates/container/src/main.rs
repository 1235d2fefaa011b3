//! The program `container`.

fn main() {}
