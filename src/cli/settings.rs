//! The configuration file of this run: where it is, and what it says.
//!
//! Invariants: a file that is not there is an empty one, unless the person named it; a file with a mistake in it is not
//! used at all; two files where one is looked for are ambiguous, and refused.

use crate::config::{
    Config, MAX_BYTES, Mistake, POOL_ALLOCATION, REMAP_UNREADABLE, Reading, Stored, Syntax, Value, read,
};
use crate::format::metadata::{AllocationPolicy, Policy, UnreadablePolicy};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

/// Where the configuration is looked for.
const FOLDER: &str = "/etc/dm-remap";
const NAMES: [&str; 3] = ["config.yaml", "config.yml", "config.json"];

/// A configuration that cannot be used. Exit code 2: what the person wrote cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadConfig {
    /// The file cannot be read.
    #[error("the configuration {}: {source}", file.display())]
    Unreadable {
        /// Which one.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// More than one file.
    #[error("there are both {} and {}: keep one of them", .0.display(), .1.display())]
    Two(PathBuf, PathBuf),
    /// There are mistakes in it.
    #[error("{}", Listed(file, mistakes))]
    Mistakes {
        /// Which one.
        file: PathBuf,
        /// All of them.
        mistakes: Vec<Mistake>,
    },
}

/// The first mistakes, for an error message.
struct Listed<'a>(&'a Path, &'a [Mistake]);

impl fmt::Display for Listed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 5;
        let Listed(file, mistakes) = self;
        let count = super::report::count(mistakes.len(), "mistake");
        write!(f, "the configuration has {count}, and nothing was done:")?;
        for mistake in mistakes.iter().take(MOST) {
            write!(f, "\n  {}:{mistake}", file.display())?;
        }
        if mistakes.len() > MOST {
            let file = file.display();
            write!(f, "\n  … and {} more: dm-remap validate --config {file}", mistakes.len().saturating_sub(MOST))?;
        }
        Ok(())
    }
}

/// A configuration, and the file that it is from, if there is one.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) file: Option<PathBuf>,
    pub(super) config: Config,
}

/// The configuration in the file that the person named, or in the one that is looked for.
///
/// # Errors
/// [`BadConfig`].
pub(super) fn load(named: Option<&Path>) -> Result<Loaded, BadConfig> {
    let file = match named {
        Some(file) => Some(file.to_path_buf()),
        None => find(Path::new(FOLDER))?,
    };
    let Some(file) = file else { return Ok(Loaded::default()) };
    let Reading { config, mistakes } = read_file(&file)?;
    if !mistakes.is_empty() {
        return Err(BadConfig::Mistakes { file, mistakes });
    }
    Ok(Loaded { file: Some(file), config })
}

fn find(folder: &Path) -> Result<Option<PathBuf>, BadConfig> {
    let mut found: Option<PathBuf> = None;
    for name in NAMES {
        let file = folder.join(name);
        match (file.symlink_metadata(), found.take()) {
            (Err(error), before) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                found = before;
            }
            // What is in the way of looking is in the way of reading, too.
            (Err(source), _) => return Err(BadConfig::Unreadable { file, source }),
            (Ok(_), Some(other)) => return Err(BadConfig::Two(other, file)),
            (Ok(_), None) => found = Some(file),
        }
    }
    Ok(found)
}

/// Reads a file, by its name as JSON or as YAML.
///
/// # Errors
/// [`BadConfig::Unreadable`]. Mistakes are in the [`Reading`].
pub(super) fn read_file(file: &Path) -> Result<Reading, BadConfig> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    File::open(file)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|source| BadConfig::Unreadable { file: file.to_path_buf(), source })?;
    let json = file.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
    Ok(read(&bytes, if json { Syntax::Json } else { Syntax::Yaml }))
}

/// What a setup stores of its own choices, as keys of the configuration.
pub(super) fn stored(policy: &Policy) -> Vec<Stored> {
    let unreadable = match policy.unreadable {
        UnreadablePolicy::Hold => "hold",
        UnreadablePolicy::Zero => "zero",
        UnreadablePolicy::Leave => "leave",
    };
    let allocation = match policy.allocation {
        AllocationPolicy::FirstFit => "first-fit",
        AllocationPolicy::BestFit => "best-fit",
        AllocationPolicy::RoundRobin => "round-robin",
        AllocationPolicy::LeastUsed => "least-used",
        AllocationPolicy::Health => "health",
    };
    let stored = |spec, word, firm| Stored { spec, value: Value::Word(word), firm };
    vec![stored(&REMAP_UNREADABLE.spec, unreadable, false), stored(&POOL_ALLOCATION.spec, allocation, true)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_is_taken_none_is_fine_and_two_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(find(folder.path()).unwrap(), None);
        assert_eq!(find(&folder.path().join("nowhere")).unwrap(), None);
        let json = folder.path().join("config.json");
        std::fs::write(&json, "{}").unwrap();
        assert_eq!(find(folder.path()).unwrap(), Some(json));
        std::fs::write(folder.path().join("config.yml"), "").unwrap();
        assert!(matches!(find(folder.path()), Err(BadConfig::Two(..))));
    }

    #[test]
    fn a_name_says_the_language() {
        let folder = tempfile::tempdir().unwrap();
        let (json, yaml) = (folder.path().join("a.JSON"), folder.path().join("a"));
        for file in [&json, &yaml] {
            std::fs::write(file, "defaults:\n").unwrap();
        }
        assert_eq!(read_file(&json).unwrap().mistakes.len(), 1);
        assert_eq!(read_file(&yaml).unwrap().mistakes, []);
        assert!(matches!(read_file(folder.path()), Err(BadConfig::Unreadable { .. })));
    }
}
