//! Build steps that are more than one line.

fn main() {}
