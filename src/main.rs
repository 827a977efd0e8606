//! tasuki: the command.

fn main() {}
