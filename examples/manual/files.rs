//! Which files are made, and what is in them.

use super::pages;
use clap_complete::env::{Bash, EnvCompleter, Fish, Zsh};
use dm_remap::cli::complete::{registration, tools};
use std::collections::BTreeMap;
use std::path::Path;

/// Folders in which every file is made by this program.
pub(crate) const FOLDERS: [&str; 2] = ["man", "completions"];

/// All files by their path from the root of the tree. The names in completions/ are those that each shell looks for.
pub(crate) fn all(root: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    for (name, page) in pages::all(root)? {
        files.insert(format!("man/{name}"), page.into_bytes());
    }
    for (tool, _) in tools() {
        let shells: [(&dyn EnvCompleter, String); 3] =
            [(&Bash, format!("{tool}.bash")), (&Zsh, format!("_{tool}")), (&Fish, format!("{tool}.fish"))];
        for (shell, name) in shells {
            files.insert(format!("completions/{name}"), completion(shell, tool)?);
        }
    }
    Ok(files)
}

/// The library's script, which finds the program also where /usr/sbin is not in the path: only root has it there.
fn completion(shell: &dyn EnvCompleter, tool: &str) -> std::io::Result<Vec<u8>> {
    let mut script = Vec::new();
    registration(shell, tool, &mut script)?;
    let script = String::from_utf8(script).map_err(std::io::Error::other)?;
    let call = match shell.name() {
        "bash" => (format!("\"{tool}\" --"), format!("PATH=\"$PATH:/usr/local/sbin:/usr/sbin:/sbin\" \"{tool}\" -- ")),
        "zsh" => (format!("{tool} --"), format!("PATH=\"$PATH:/usr/local/sbin:/usr/sbin:/sbin\" {tool} -- ")),
        _ => (
            format!("=fish {tool} --"),
            format!("=fish PATH=\\\"\\$PATH:/usr/local/sbin:/usr/sbin:/sbin\\\" {tool} -- "),
        ),
    };
    if !script.contains(&call.0) {
        return Err(std::io::Error::other(format!("the script for {} is not as it was", shell.name())));
    }
    let script = script.replace(&call.0, call.1.trim_end());
    Ok(format!("{}\n", script.trim()).into_bytes())
}
