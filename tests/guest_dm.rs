//! One battery of device-mapper behaviour, run against the fake always, and against a real kernel when
//! `DM_REMAP_GUEST=1` (as root, with `GUEST_DISK0` and `GUEST_DISK1` naming empty disks of at least 16 MiB):
//!
//! ```text
//! scripts/guest --disk 16M --disk 16M --env DM_REMAP_GUEST=1 -- target/debug/deps/guest_dm-… --test-threads=1
//! ```

// A test crate: clippy.toml's exceptions cover its test functions, but not their helpers.
#![allow(unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, clippy::panic, clippy::expect_used)]

#[path = "guest_dm/battery.rs"]
mod battery;
#[path = "guest_dm/bench.rs"]
mod bench;
#[path = "guest_dm/kernel_only.rs"]
mod kernel_only;
#[path = "guest_dm/messages.rs"]
mod messages;

use bench::Bench;

/// Runs one part of the battery on the fake, and on the kernel where there is one for us.
macro_rules! on_both {
    ($($part:ident::$name:ident),* $(,)?) => {
        mod fake {
            $(#[test]
            fn $name() {
                super::$part::$name(&super::Bench::fake());
            })*
        }
        mod kernel {
            $(#[test]
            fn $name() {
                if let Some(bench) = super::Bench::kernel() {
                    super::$part::$name(&bench);
                }
            })*
        }
    };
}

on_both!(
    battery::a_device_from_birth_to_removal,
    battery::tables_read_back_as_they_were_loaded,
    battery::what_load_refuses,
    battery::a_refused_resume_leaves_it_suspended,
    battery::the_window_suspends_and_swaps,
    battery::the_last_resort_is_loaded_while_suspended,
    battery::names_and_uuids_are_unique,
    battery::tables_hold_their_devices_open,
    battery::a_device_without_a_table,
    battery::read_only_tables,
    battery::flakey_fails_reads_and_passes_writes,
    messages::dust_numbers_blocks_on_the_device,
    messages::dust_heals_whole_blocks,
    messages::dust_messages,
    messages::dust_lists_die_with_their_table,
    messages::stats_count_writes_per_area,
    messages::stats_messages,
    messages::errors_of_messages,
    battery::missing_devices,
);
