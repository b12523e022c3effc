//! Which setups are meant: names, and patterns as the shell has them.
//!
//! Invariants: a name without `*`, `?` or `[` is taken as it is; a pattern that fits no setup is a mistake, which names
//! those that there are; nothing is read but what device-mapper lists.

use super::context::{Context, Usage};
use anyhow::Result;
use glob::Pattern;

/// The setups that are meant, in the order given, each once; all that are up when nothing is given.
pub(super) fn select(context: &Context, wanted: &[String]) -> Result<Vec<String>> {
    let is_pattern = |text: &String| text.contains(['*', '?', '[']);
    let names = if wanted.is_empty() || wanted.iter().any(is_pattern) { up(context)? } else { Vec::new() };
    if wanted.is_empty() {
        return Ok(names);
    }
    let mut out: Vec<String> = Vec::new();
    for text in wanted {
        let found = if is_pattern(text) { matching(text, &names)? } else { vec![text.clone()] };
        out.extend(found);
    }
    let mut seen = std::collections::BTreeSet::new();
    out.retain(|name| seen.insert(name.clone()));
    Ok(out)
}

/// Names of the setups that are up, sorted.
fn up(context: &Context) -> Result<Vec<String>> {
    Ok(context.active_names()?)
}

fn matching(text: &str, names: &[String]) -> Result<Vec<String>, Usage> {
    let pattern = Pattern::new(text).map_err(|error| Usage(format!("'{text}' is no pattern: {error}")))?;
    let found: Vec<String> = names.iter().filter(|name| pattern.matches(name)).cloned().collect();
    if found.is_empty() {
        let known = if names.is_empty() { "none is".to_string() } else { format!("those are: {}", names.join(", ")) };
        return Err(Usage(format!("'{text}' fits no setup that is up; {known}")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_the_shell() {
        let names = ["archive", "data1", "data2"].map(String::from);
        assert_eq!(matching("data*", &names).unwrap(), ["data1", "data2"]);
        assert_eq!(matching("data?", &names).unwrap(), ["data1", "data2"]);
        assert_eq!(matching("[a-c]*", &names).unwrap(), ["archive"]);
        let none = matching("x*", &names).unwrap_err().to_string();
        assert!(none.contains("'x*' fits no setup that is up; those are: archive, data1, data2"), "{none}");
        assert!(matching("[", &names).unwrap_err().to_string().contains("no pattern"));
        assert!(matching("*", &[]).unwrap_err().to_string().contains("none is"));
    }
}
