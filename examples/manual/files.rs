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
    let path = "PATH=\"$PATH:/usr/local/sbin:/usr/sbin:/sbin\"";
    let changes: Vec<(String, String)> = match shell.name() {
        "bash" => vec![
            (format!("\"{tool}\" --"), format!("{path} \"{tool}\" --")),
            (BASH_WORDS.into(), BASH_WHOLE_WORDS.into()),
            ("local _CLAP_COMPLETE_INDEX=${COMP_CWORD}\n".into(), "local _CLAP_COMPLETE_INDEX\n".into()),
            (BASH_END.into(), BASH_SHORTER_END.into()),
        ],
        "zsh" => {
            let function = format!("_clap_dynamic_completer_{}", tool.replace('-', "_"));
            let last = format!("compdef {function} {tool}\n");
            vec![
                (format!("{tool} --"), format!("{path} {tool} --")),
                (last.clone(), format!("{last}{}", zsh_first_time(tool, &function))),
            ]
        }
        _ => {
            let path = path.replace('"', "\\\"").replace('$', "\\$");
            vec![(format!("=fish {tool} --"), format!("=fish {path} {tool} --"))]
        }
    };
    let mut script = format!("{}\n", script.trim());
    for (from, to) in changes {
        if !script.contains(&from) {
            let was = format!("the library's script for {} is not as it was: no '{from}' in it", shell.name());
            return Err(std::io::Error::other(was));
        }
        script = script.replace(&from, &to);
    }
    Ok(script.into_bytes())
}

/// Where the library takes the words as readline cuts them.
const BASH_WORDS: &str = r#"    local words=("${COMP_WORDS[@]}")
    if [[ "${BASH_VERSINFO[0]}" -ge 4 ]]; then
        words[COMP_CWORD]="$2"
    fi
"#;

/// Readline cuts words at '=' and ':', and the program must have them whole: `--main=/dev/sda` is one.
const BASH_WHOLE_WORDS: &str = r#"    # Words as the program gets them: readline cuts them at '=' and ':', too.
    local words=() rest="${COMP_LINE:0:COMP_POINT}" blanks piece joined=no i
    for ((i = 0; i <= COMP_CWORD; i++)); do
        blanks="${rest%%[![:blank:]]*}"
        rest="${rest#"$blanks"}"
        piece="${COMP_WORDS[i]}"
        ((i < COMP_CWORD)) || piece="$rest"
        rest="${rest#"$piece"}"
        if ((i > 0)) && [[ -z $blanks && ($piece == [=:]* || $joined == yes) ]]; then
            words[${#words[@]} - 1]+="$piece"
        else
            words+=("$piece")
        fi
        [[ $piece == *[=:] ]] && joined=yes || joined=no
    done
    _CLAP_COMPLETE_INDEX=$((${#words[@]} - 1))
"#;

/// The end of the library's function.
const BASH_END: &str = "        compopt -o nospace\n    fi\n}\n";

/// What readline has cut off it keeps by itself.
const BASH_SHORTER_END: &str = r#"        compopt -o nospace
    fi
    # What readline has cut off it keeps, and must not get again.
    local whole="${words[_CLAP_COMPLETE_INDEX]}"
    [[ $piece != [=:]* ]] || piece=''
    COMPREPLY=("${COMPREPLY[@]#"${whole%"$piece"}"}")
}
"#;

/// zsh loads the script as a function when it is first needed: then it has to complete, not only to say how.
fn zsh_first_time(tool: &str, function: &str) -> String {
    format!("[[ $funcstack[1] != _{tool} ]] || {function} \"$@\"\n")
}
