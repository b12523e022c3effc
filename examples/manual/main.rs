//! Writes man/ and completions/ anew from the definition of the command line, the table of configuration keys, and the texts
//! in docs/man/ and docs/FORMAT.md: `cargo run --example manual`. `tests/file_manual.rs` fails when they are out of date.

mod files;
mod markdown;
mod pages;

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let wanted = files::all(root)?;
    for folder in files::FOLDERS {
        std::fs::create_dir_all(root.join(folder))?;
        for entry in std::fs::read_dir(root.join(folder))? {
            let path = entry?.path();
            if path.is_file() && !wanted.keys().any(|name| root.join(name) == path) {
                std::fs::remove_file(path)?;
            }
        }
    }
    for (name, content) in &wanted {
        std::fs::write(root.join(name), content)?;
    }
    println!("{} files written", wanted.len());
    Ok(())
}
