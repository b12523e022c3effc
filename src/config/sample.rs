//! The sample file: every key with its meaning, range and default, from the table.

use super::keys::{GROUPS, KEYS};
use super::value::{Scope, Spec, Value};
use std::fmt::Write;

const HEAD: &str = "\
# dm-remap's configuration: /etc/dm-remap/config.yaml (or config.yml, or config.json with the same keys).
#
# Made from the program's own table of keys; every key is shown with its default and commented out. Leave away what
# needs no change. 'dm-remap-validate --config FILE' says whether a file is right, 'dm-remap config show [NAME]' what is
# in force and where it comes from.
#
# What counts, the first that is there: the option on the command line, the section of the setup, 'defaults', the
# built-in default. ('unreadable' and other choices that a setup stores by itself stand between its section and 'defaults'.)

# For all setups.
defaults:
";

const SETUPS: &str = "
# For single setups, by name: the same sections, but for what is marked 'only under defaults'.
setups:
  # data:
  #   scan:
  #     interval: 7days
  #     rate: 20M
  #   remap:
  #     unreadable: zero
";

/// The text of the sample.
pub fn sample() -> String {
    let mut out = String::from(HEAD);
    for (group, about) in GROUPS {
        let _ = write!(
            out,
            "\n  # {}{}.\n  {group}:\n",
            about.get(..1).unwrap_or_default().to_uppercase(),
            about.get(1..).unwrap_or_default()
        );
        for spec in KEYS.iter().filter(|spec| spec.group == group) {
            entry(&mut out, spec);
        }
    }
    out.push_str(SETUPS);
    out
}

fn entry(out: &mut String, spec: &Spec) {
    let default = match &spec.default {
        Value::Unset => "none".to_string(),
        value => value.to_string(),
    };
    let used = match spec.used_by {
        [] => "no command of this version goes by it".to_string(),
        commands => format!("used by {}", commands.join(", ")),
    };
    let only = if spec.scope == Scope::Defaults { "; only under defaults" } else { "" };
    out.push('\n');
    for line in wrapped(spec.doc) {
        let _ = writeln!(out, "    # {line}");
    }
    for line in wrapped(&format!("({}; default: {default}; {used}{only})", spec.kind)) {
        let _ = writeln!(out, "    # {line}");
    }
    let example = match (&spec.default, spec.group, spec.name) {
        (Value::Unset, "scan", "rate") => "20M".to_string(),
        (Value::Unset, "scan", "time_budget") => "30m".to_string(),
        (Value::Unset, "health", "suspect_interval") => "6h".to_string(),
        (Value::Unset, "alerts", "program") => "/usr/local/sbin/dm-remap-alert".to_string(),
        (Value::Unset, "alerts", "mail") => "root@localhost".to_string(),
        (Value::Unset, _, _) => "/var/lib/prometheus/node-exporter".to_string(),
        (value, _, _) => value.to_string(),
    };
    let _ = writeln!(out, "    # {}: {example}", spec.name);
}

/// Text in lines that fit a page.
fn wrapped(text: &str) -> Vec<String> {
    const WIDTH: usize = 110;
    let mut lines = vec![String::new()];
    for word in text.split_ascii_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len().saturating_add(word.len()) < WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}
