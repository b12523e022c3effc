//! The multi-call program: dispatches on the name that it was called by.

use std::process::ExitCode;

fn main() -> ExitCode {
    dm_remap::cli::main(std::env::args_os())
}
