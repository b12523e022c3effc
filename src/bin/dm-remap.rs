//! The multi-call program: dispatches on the name that it was called by.

fn main() {}
