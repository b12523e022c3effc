//! Metrics and Nagios' answers of a real setup: they say what happened, at once, and promtool takes them.
// guest: --disk 64M
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![allow(clippy::indexing_slicing)]

mod guest_support;

use guest_support::{Guest, dm_remap, sh, shell};

#[test]
fn what_happens_to_a_setup_is_in_the_metrics_when_the_command_is_done() {
    let Some(guest) = Guest::begin() else { return };
    let main = guest.scsi_debug(16, "");
    let spare = &guest.disks[0];
    sh(
        "mkdir -p /tmp/work-metrics && printf 'defaults:\n  metrics:\n    textfile: /tmp/work-metrics\n' >/tmp/work-metrics/config.yaml",
    );
    let run = |line: &str| dm_remap(&format!("--config /tmp/work-metrics/config.yaml {line}"));
    let file = || sh("cat /tmp/work-metrics/dm_remap.prom");
    let has = |line: &str| {
        let page = file();
        assert!(page.lines().any(|l| l == line), "no '{line}' in\n{page}");
    };
    dm_remap("status --nagios").exits(3).says(&["DM_REMAP UNKNOWN - no setup is up"]);
    run(&format!("create data --main {} --spare {spare}", main.device)).ok();
    has("dm_remap_setup_remapped_bytes{setup=\"data\"} 0");
    has("dm_remap_setup_state{setup=\"data\",state=\"healthy\"} 1");
    assert_eq!(sh("stat -c %a /tmp/work-metrics/dm_remap.prom").trim(), "644");
    dm_remap("status --nagios").ok().says(&["DM_REMAP OK - data: healthy | 'data_remapped'=0B"]);

    // A bad sector that nobody can read: found by a scan from cron, and in the file by then.
    main.bad(8000, 1);
    run("scan --cron --rate max").exits(3);
    has("dm_remap_setup_held_bytes{setup=\"data\"} 512");
    has("dm_remap_setup_trouble{setup=\"data\",code=\"DMR-08\"} 1");
    has("dm_remap_setup_state{setup=\"data\",state=\"attention\"} 1");
    assert!(file().contains("dm_remap_setup_scan_end_timestamp_seconds{setup=\"data\"} "));
    dm_remap("status --nagios").exits(1).says(&["DM_REMAP WARNING - data: attention", "DMR-08", "'data_held'=512B"]);
    let answer = dm_remap("scan data --nagios --rate max --restart").ok().out;
    assert!(answer.starts_with("DM_REMAP OK - data: nothing bad | 'read'=") && answer.lines().count() == 1, "{answer}");
    main.bad(12_000, 1);
    dm_remap("scan data --report-only --nagios --rate max --restart")
        .exits(2)
        .says(&["DM_REMAP CRITICAL - data: ", "not moved"]);
    dm_remap("scan nothing --nagios").exits(3).says(&["DM_REMAP UNKNOWN - "]);
    dm_remap("status nothing --nagios").exits(2).says(&["DM_REMAP CRITICAL - nothing is not up"]);

    // What is printed is what promtool takes; a bad name does not spoil the rest.
    let promtool = concat!(env!("CARGO_MANIFEST_DIR"), "/target/tools/promtool");
    assert_eq!(shell(&format!("set -o pipefail; $DMR metrics | {promtool} check metrics 2>&1")).ok().out, "");
    let both = dm_remap("metrics data nothing").exits(3).complains(&["nothing"]).out;
    assert!(both.contains("dm_remap_scrape_error{setup=\"nothing\"} 1\n"), "{both}");
    assert!(both.contains("dm_remap_scrape_error{setup=\"data\"} 0\n"), "{both}");

    // A directory that is not there fails no command.
    sh("sed -i 's#/tmp/work-metrics$#/tmp/work-none#' /tmp/work-metrics/config.yaml");
    run("acknowledge data").ok().complains(&["note: metrics were not written to /tmp/work-none"]);
    dm_remap("metrics --textfile /tmp/work-none").exits(1).complains(&["/tmp/work-none/dm_remap.prom"]);
    sh("sed -i 's#/tmp/work-none$#/tmp/work-metrics#' /tmp/work-metrics/config.yaml");
    run("deactivate data").ok();
    has("dm_remap_setups 0");
}
