#!/usr/bin/awk -f
# The table of the speed part, from lines "speed DISK READER BYTES WALL USER SYSTEM OWN" (seconds).

function keep(store, count, key, value) { store[key, ++count[key]] = value + 0 }

# Sorts what is kept under a key; then sorted[1..n].
function sort(store, count, key,    i, j, n, x) {
    n = count[key]
    for (i = 1; i <= n; i++) {
        x = store[key, i]
        for (j = i - 1; j > 0 && sorted[j] > x; j--) sorted[j + 1] = sorted[j]
        sorted[j + 1] = x
    }
    return n
}

function median(store, count, key,    n) {
    n = sort(store, count, key)
    return n % 2 ? sorted[(n + 1) / 2] : (sorted[n / 2] + sorted[n / 2 + 1]) / 2
}

BEGIN {
    how["scan"] = "O_DIRECT, 1 MiB, 4 threads; default manners"
    how["scan-start"] = "its start and its end: 1 MiB"
    how["scan-max"] = "the same with --rate max"
    how["fio-libaio"] = "O_DIRECT, 1 MiB, libaio, 4 in flight"
    how["fio-psync"] = "O_DIRECT, 1 MiB, psync"
    how["badblocks"] = "-sv: O_DIRECT, 64 KiB"
    how["badblocks-1M"] = "-sv -b 4096 -c 256: O_DIRECT, 1 MiB"
    how["ddrescue-direct"] = "--idirect: O_DIRECT"
    how["ddrescue"] = "page cache"
}

$1 == "kernel" { kernel = $2 " (" $3 ", " $4 " processors)" }
$1 == "speed" {
    if (!(($2, $3) in seen)) { seen[$2, $3] = 1; order[++readers] = $2 SUBSEP $3 }
    if (!($2 in size)) { size[$2] = $4; disks[++kinds] = $2 }
    keep(wall, walls, $2 SUBSEP $3, $5)
    keep(cpu, cpus, $2 SUBSEP $3, ($6 + $7) / $4 * 1024 ^ 3)
    if ($8 > 0) keep(own, owns, $2 SUBSEP $3, $8)
}

END {
    for (d = 1; d <= kinds; d++) table(disks[d])
}

function table(disk,    start, start_cpu, r, key, name, mib, fio, fio_name, rate, least, least_name, line, value) {
    mib = size[disk] / 1024 ^ 2
    # The best of fio, by its own figure: without its start and end.
    for (r = 1; r <= readers; r++) {
        key = order[r]
        name = substr(key, index(key, SUBSEP) + 1)
        if (key != disk SUBSEP name) continue
        if (key in owns) {
            rate = mib / median(own, owns, key)
            if (rate > fio) { fio = rate; fio_name = name }
        }
        value = median(cpu, cpus, key)
        if (name == "scan-start") { start = median(wall, walls, key); start_cpu = value }
        if (name !~ /^scan/ && (least == "" || value < least)) { least = value; least_name = name }
    }
    printf "\nDisk %s: %.1f GiB, kernel %s, medians of %d\n\n", disk, mib / 1024, kernel, walls[disk SUBSEP "scan"]
    printf "%-16s %17s %8s %8s %19s %10s  %s\n", "reader", "s (least-most)", "MiB/s", "of fio", "CPU s/GiB", "of least", "how"
    for (r = 1; r <= readers; r++) {
        key = order[r]
        name = substr(key, index(key, SUBSEP) + 1)
        if (key != disk SUBSEP name) continue
        if (name == "scan-start") {
            printf "%-34s %17s %6.2f (%s) %9s  %s\n", sprintf("%-16s %6.2f (%s)", name, median(wall, walls, key), spread(wall, walls, key)), "", start_cpu, spread(cpu, cpus, key), "", how[name]
            continue
        }
        rate = mib / median(wall, walls, key)
        line = sprintf("%-16s %6.2f (%s)", name, median(wall, walls, key), spread(wall, walls, key))
        value = median(cpu, cpus, key)
        printf "%-34s %8.0f %8.3f %6.2f (%s) %9.2f  %s\n", line, rate, rate / fio, value, spread(cpu, cpus, key), value / least, how[name]
        if (name ~ /^scan/) {
            rate = mib / (median(wall, walls, key) - start)
            printf "%-34s %8.0f %8.3f %6.2f %21.2f\n", "  less scan-start", rate, rate / fio, value - start_cpu, (value - start_cpu) / least
        }
        if (key in owns) {
            rate = mib / median(own, owns, key)
            printf "%-34s %8.0f %8.3f\n", "  its own figure", rate, rate / fio
        }
    }
    printf "\nof fio: against the best of fio's own figures (%s), which leave out its start and end.\n", fio_name
    printf "of least: CPU against the least of the others (%s).\n", least_name
}

function spread(store, count, key,    n) {
    n = sort(store, count, key)
    return sprintf("%.2f-%.2f", sorted[1], sorted[n])
}
