#!/usr/bin/awk -f
# The table of the foreground part, from lines
# "foreground DISK/LOAD MODE ROUND RKIB RMS RLAT WKIB WMS WLAT SCANNED TOOK BACK FULL": KiB, milliseconds and mean latency
# (microseconds) of fio's reads and writes; sectors that the scan read, and in how many milliseconds; how long after fio
# the scan was at speed again (milliseconds, -1 if it was not), and what that speed is (MiB/s).

function sort(key,    i, j, n, x) {
    n = count[key]
    for (i = 1; i <= n; i++) {
        x = store[key, i]
        for (j = i - 1; j > 0 && sorted[j] > x; j--) sorted[j + 1] = sorted[j]
        sorted[j + 1] = x
    }
    return n
}

function median(key,    n) {
    n = sort(key)
    return n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
}

function spread(key,    n) {
    n = sort(key)
    return sprintf("%.3f-%.3f", sorted[1], sorted[n])
}

function keep(key, value) { store[key, ++count[key]] = value }

BEGIN {
    what["throttled/read-1"] = "throttled: random reads, 1 in flight"
    what["throttled/read-4"] = "throttled: random reads, 4 in flight"
    what["throttled/mixed-1"] = "throttled: 70 % reads, 1 in flight"
    what["throttled/mixed-4"] = "throttled: 70 % reads, 4 in flight"
    what["serial/read-1"] = "serial: random reads, 1 in flight"
    what["serial/half"] = "serial: reads, half of what it can"
    shown["none-again"] = "no scan"
    shown["scan"] = "scan"
    shown["idle"] = "scan --idle"
    shown["max"] = "scan --rate max"
    split("none-again scan idle max", modes, " ")
}

$1 == "kernel" { kernel = $2 " (" $3 ", " $4 " processors)" }
$1 == "foreground" {
    requests = ($5 + $8) / 4
    longest = $6 > $9 ? $6 : $9
    rate = requests / longest * 1000
    latency = ($7 * $5 + $10 * $8) / ($5 + $8)
    if (!($2 in seen)) { seen[$2] = 1; order[++loads] = $2 }
    if ($3 == "none") {
        # Each round has its own figures without a scan; the others of the round are compared with them.
        base_rate[$2, $4] = rate
        base_latency[$2, $4] = latency
        keep($2 SUBSEP "rate", rate)
        keep($2 SUBSEP "latency", latency / 1000)
    } else {
        key = $2 SUBSEP $3
        keep(key SUBSEP "rate", rate / base_rate[$2, $4])
        keep(key SUBSEP "latency", latency / base_latency[$2, $4])
        keep(key SUBSEP "scanned", $11 / 2048 / $12 * 1000)
        keep(key SUBSEP "back", $13 / 1000)
        keep(key SUBSEP "full", $14)
    }
}

END {
    rounds = count[order[1] SUBSEP "rate"]
    printf "\nKernel %s, %d rounds; medians, and the least and most of the rounds\n\n", kernel, rounds
    printf "%-36s %-16s %22s %22s %11s %14s\n", "fio", "beside it", "throughput", "mean latency", "scan MiB/s", "at speed after"
    for (l = 1; l <= loads; l++) {
        load = order[l]
        printf "%-36s %-16s %20.1f/s %19.2f ms\n", what[load], "nothing", median(load SUBSEP "rate"), median(load SUBSEP "latency")
        for (m = 1; m <= 4; m++) {
            key = load SUBSEP modes[m]
            if (!((key SUBSEP "rate") in count)) continue
            printf "%-36s %-16s %8s (%s)", "", shown[modes[m]], sprintf("%.3f", median(key SUBSEP "rate")), spread(key SUBSEP "rate")
            printf " %7s (%s)", sprintf("%.3f", median(key SUBSEP "latency")), spread(key SUBSEP "latency")
            if (modes[m] == "none-again") { print ""; continue }
            n = sort(key SUBSEP "back")
            back = sorted[1] < 0 ? "not in 3.5 s" : sprintf("%.2f s at most", sorted[n])
            printf " %11.2f %14s\n", median(key SUBSEP "scanned"), modes[m] == "max" ? "" : back
        }
    }
    print "\nthroughput, mean latency: against the same load of the same round with nothing beside it; 'no scan' is the same"
    print "again, and shows how far two equal measurements are apart."
}
