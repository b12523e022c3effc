//! What a command goes by: the option on the command line, else the configuration.
//!
//! Invariant: what was given on the command line counts, whatever a file says.

use super::args::{Allocation, Create, LayoutChoice, Method, Remap, Scan, Unreadable, Watch};
use crate::config::{
    HEALTH_SUSPECT_INTERVAL, Key, POOL_ALLOCATION, REMAP_FILE_SEARCH, REMAP_LAYOUT, REMAP_RETRIES, REMAP_UNREADABLE,
    Rate, SCAN_FILE_SEARCH, SCAN_IDLE, SCAN_INTERVAL, SCAN_JITTER, SCAN_MARGIN, SCAN_METHOD, SCAN_MOVE_WEAK, SCAN_RATE,
    SCAN_RETRIES, SCAN_SLOW_MS, SCAN_TIME_BUDGET, Settings, WATCH_SETTLE,
};
use crate::format::metadata::{Policy, UnreadablePolicy};
use crate::units::Sectors;
use clap::ValueEnum;
use std::time::Duration;

/// What a scan goes by.
#[derive(Clone, Debug)]
pub(super) struct ScanChoices {
    pub(super) method: Method,
    pub(super) retries: u32,
    pub(super) slow_ms: u64,
    pub(super) move_weak: bool,
    pub(super) margin: Sectors,
    pub(super) rate: Option<Rate>,
    pub(super) idle: bool,
    pub(super) interval: Duration,
    /// After what time suspect regions are read anew, if they are.
    pub(super) suspect_interval: Option<Duration>,
    pub(super) jitter: Duration,
    pub(super) time_budget: Option<Duration>,
    pub(super) patience: Duration,
    /// What to do with blocks that cannot be read; what the setup stores, when nothing is said.
    pub(super) unreadable: Option<UnreadablePolicy>,
}

impl ScanChoices {
    pub(super) fn new(args: &Scan, settings: Settings<'_>) -> ScanChoices {
        let (rate, idle) = rate_and_idle(args, settings);
        ScanChoices {
            method: args.method.or(word(settings, &SCAN_METHOD)).unwrap_or(Method::Read),
            retries: args.retries.unwrap_or_else(|| small(settings.get(&SCAN_RETRIES))),
            slow_ms: args.slow_ms.unwrap_or_else(|| settings.get(&SCAN_SLOW_MS)),
            move_weak: args.move_weak.unwrap_or_else(|| settings.get(&SCAN_MOVE_WEAK)),
            margin: Sectors(args.margin.unwrap_or_else(|| settings.get(&SCAN_MARGIN))),
            rate,
            idle,
            interval: args.interval.unwrap_or_else(|| settings.get(&SCAN_INTERVAL)),
            suspect_interval: settings.get(&HEALTH_SUSPECT_INTERVAL),
            jitter: args.jitter.unwrap_or_else(|| settings.get(&SCAN_JITTER)),
            time_budget: args.time_budget.or_else(|| settings.get(&SCAN_TIME_BUDGET)),
            patience: args.files.given().unwrap_or_else(|| settings.get(&SCAN_FILE_SEARCH)),
            unreadable: unreadable(args.unreadable, settings),
        }
    }
}

/// Rate `max` and `idle` exclude each other: what was given on the command line takes the other out of force.
fn rate_and_idle(args: &Scan, settings: Settings<'_>) -> (Option<Rate>, bool) {
    let rate = args.rate.or_else(|| settings.get(&SCAN_RATE));
    let idle = args.idle.unwrap_or_else(|| settings.get(&SCAN_IDLE));
    match (rate, idle) {
        (Some(Rate::Max), true) if args.idle.is_none() && args.rate.is_some() => (rate, false),
        (Some(Rate::Max), true) => (None, true),
        both => both,
    }
}

/// What `remap` goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct RemapChoices {
    pub(super) retries: u32,
    pub(super) patience: Duration,
    /// As in [`ScanChoices`].
    pub(super) unreadable: Option<UnreadablePolicy>,
}

impl RemapChoices {
    pub(super) fn new(args: &Remap, settings: Settings<'_>) -> RemapChoices {
        RemapChoices {
            retries: args.retries.unwrap_or_else(|| small(settings.get(&REMAP_RETRIES))),
            patience: args.files.given().unwrap_or_else(|| settings.get(&REMAP_FILE_SEARCH)),
            unreadable: unreadable(args.unreadable, settings),
        }
    }
}

/// How long a watcher waits for reports that come together.
pub(super) fn settle(args: &Watch, settings: Settings<'_>) -> Duration {
    args.settle.unwrap_or_else(|| settings.get(&WATCH_SETTLE))
}

/// What a watcher does about one setup: how often it reads again, and what becomes of what it cannot read.
pub(super) fn watched(args: &Watch, settings: Settings<'_>) -> (u32, Option<UnreadablePolicy>) {
    let retries = args.retries.unwrap_or_else(|| small(settings.get(&REMAP_RETRIES)));
    (retries, unreadable(args.unreadable, settings))
}

/// How maps become tables.
pub(super) fn layout(given: Option<LayoutChoice>, settings: Settings<'_>) -> LayoutChoice {
    given.or(word(settings, &REMAP_LAYOUT)).unwrap_or(LayoutChoice::Auto)
}

/// What `create` stores in the setup.
pub(super) fn policy(args: &Create, settings: Settings<'_>) -> Policy {
    let unreadable = args.unreadable.or(word(settings, &REMAP_UNREADABLE)).map(Into::into);
    let allocation = args.allocation.or(word::<Allocation>(settings, &POOL_ALLOCATION)).map(Into::into);
    Policy {
        unreadable: unreadable.unwrap_or_default(),
        allocation: allocation.unwrap_or_default(),
        ..Policy::default()
    }
}

/// What to do with blocks that cannot be read, where somebody says so for this setup. `defaults` does not: it is for
/// setups that have no choice of their own yet.
fn unreadable(given: Option<Unreadable>, settings: Settings<'_>) -> Option<UnreadablePolicy> {
    let own = || settings.own(&REMAP_UNREADABLE).and_then(choice);
    given.or_else(own).map(Into::into)
}

/// The choice that a word of the table is.
fn word<T: ValueEnum>(settings: Settings<'_>, key: &Key<&'static str>) -> Option<T> {
    choice(settings.get(key))
}

fn choice<T: ValueEnum>(word: &str) -> Option<T> {
    T::from_str(word, false).ok()
}

/// The table lets no larger numbers pass where these are wanted.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::{Cli, Command};
    use crate::config::{Config, KEYS, Kind, Spec, Syntax, Value, read};
    use clap::{CommandFactory, Parser};

    fn config(text: &str) -> Config {
        let reading = read(text.as_bytes(), Syntax::Yaml);
        assert_eq!(reading.mistakes, []);
        reading.config
    }

    fn scan(line: &str, text: &str, name: Option<&str>) -> ScanChoices {
        let Command::Scan(args) = Cli::parse_from(line.split(' ')).command else { panic!("{line}") };
        ScanChoices::new(&args, config(text).settings(name))
    }

    #[test]
    fn the_command_line_goes_before_the_setup_that_before_the_defaults_and_those_before_the_built_in() {
        let text = "{defaults: {scan: {retries: 5, slow_ms: 7, move_weak: true, interval: 2h, file_search: 1m}}, \
                    setups: {data: {scan: {retries: 6, margin: 9}}}}";
        let given = scan("dm-remap scan data --retries 8 --move-weak=false --file-search 3", text, Some("data"));
        assert_eq!((given.retries, given.slow_ms, given.margin.0, given.move_weak), (8, 7, 9, false));
        assert_eq!((given.interval, given.patience), (Duration::from_secs(7200), Duration::from_secs(3)));
        let own = scan("dm-remap scan data", text, Some("data"));
        assert_eq!((own.retries, own.move_weak, own.patience), (6, true, Duration::from_secs(60)));
        assert_eq!(scan("dm-remap scan data", text, Some("other")).retries, 5);
        let built_in = scan("dm-remap scan data", "", Some("data"));
        assert_eq!((built_in.retries, built_in.slow_ms, built_in.margin.0, built_in.move_weak), (3, 500, 0, false));
        assert_eq!((built_in.interval, built_in.jitter), (Duration::from_secs(86_400), Duration::ZERO));
        assert_eq!((built_in.rate, built_in.idle, built_in.time_budget), (None, false, None));
    }

    #[test]
    fn rate_max_and_idle_take_each_other_out() {
        let max = "defaults: {scan: {rate: max}}";
        let idle = "defaults: {scan: {idle: true}}";
        let of = |line: &str, text: &str| {
            let choices = scan(line, text, None);
            (choices.rate, choices.idle)
        };
        assert_eq!(of("dm-remap scan data --idle", max), (None, true));
        assert_eq!(of("dm-remap scan data --rate max", idle), (Some(Rate::Max), false));
        assert_eq!(of("dm-remap scan data --rate 1M", idle), (Some(Rate::Bytes(1 << 20)), true));
        assert_eq!(of("dm-remap scan data --idle=false", idle), (None, false));
        let setup = "{defaults: {scan: {rate: max}}, setups: {data: {scan: {idle: true}}}}";
        assert!(scan("dm-remap scan data", setup, Some("data")).idle);
    }

    #[test]
    fn what_a_setup_stores_goes_before_the_defaults_but_not_before_its_own_section() {
        let text = "{defaults: {remap: {unreadable: zero}}, setups: {data: {remap: {unreadable: leave}}}}";
        let of = |line: &str, name| scan(line, text, Some(name)).unreadable;
        assert_eq!(of("dm-remap scan data --unreadable hold", "data"), Some(UnreadablePolicy::Hold));
        assert_eq!(of("dm-remap scan data", "data"), Some(UnreadablePolicy::Leave));
        // Nothing said: what is stored.
        assert_eq!(of("dm-remap scan data", "other"), None);
        let created = |line: &str| {
            let Command::Create(args) = Cli::parse_from(line.split(' ')).command else { panic!("{line}") };
            policy(&args, config(text).settings(Some(&args.name))).unreadable
        };
        assert_eq!(created("dm-remap create new --main /a --spare /b"), UnreadablePolicy::Zero);
        assert_eq!(created("dm-remap create data --main /a --spare /b"), UnreadablePolicy::Leave);
        assert_eq!(created("dm-remap create new --main /a --spare /b --unreadable hold"), UnreadablePolicy::Hold);
    }

    #[test]
    fn the_words_of_the_table_are_those_of_the_command_line() {
        fn words<T: ValueEnum>() -> Vec<String> {
            T::value_variants().iter().filter_map(|v| Some(v.to_possible_value()?.get_name().to_string())).collect()
        }
        let of = |spec: &Spec| match spec.kind {
            Kind::Word(words) => words.iter().map(ToString::to_string).collect::<Vec<_>>(),
            _ => panic!("{}", spec.path()),
        };
        assert_eq!(of(&SCAN_METHOD.spec), words::<Method>());
        assert_eq!(of(&REMAP_LAYOUT.spec), words::<LayoutChoice>());
        assert_eq!(of(&REMAP_UNREADABLE.spec), words::<Unreadable>());
        assert_eq!(of(&POOL_ALLOCATION.spec), words::<Allocation>());
    }

    #[test]
    fn help_tells_the_built_in_defaults_and_every_used_key_is_an_option() {
        for spec in KEYS {
            for used in spec.used_by {
                let name = used.split(' ').next().unwrap();
                let program = Cli::command();
                let command = program.find_subcommand(name).unwrap();
                // What is told, and what start scripts do, is for the configuration alone.
                if ["alerts", "metrics", "boot", "health"].contains(&spec.group) || spec.name.starts_with("warn_") {
                    continue;
                }
                // What is moved gets the tables that the setup has by its configuration; `layout` takes a plain word.
                if spec.name == "layout" && !["create", "activate", "reassemble"].contains(&name) {
                    continue;
                }
                let option = spec.name.replace('_', "-");
                let argument = command.get_arguments().find(|a| a.get_long() == Some(&option));
                let argument = argument.unwrap_or_else(|| panic!("{name} has no --{option}"));
                assert!(
                    argument.get_default_values().is_empty(),
                    "{name} --{option}: it must be told from what is given"
                );
                let help = argument.get_help().unwrap().to_string();
                let shown = match (&spec.default, spec.name, name) {
                    (Value::Unset | Value::Switch(false), ..) => continue,
                    // Those who find a setup go by what it stores.
                    (_, "unreadable", "remap" | "scan" | "watch") => "default: as the setup says".to_string(),
                    (_, "file_search", _) => "[default: 30".to_string(),
                    (_, "interval", _) => "[default: 24h".to_string(),
                    (value, ..) => format!("[default: {value}"),
                };
                assert!(help.contains(&shown), "{name} --{option}: {help}, not {shown}");
            }
        }
    }
}
