#!/usr/bin/awk -f
# The tables of benches/layout from its raw figures.

function median(list,    n, i, j, part, values) {
    n = split(list, values, " ")
    for (i = 2; i <= n; i++) {
        part = values[i] + 0
        for (j = i - 1; j >= 1 && values[j] + 0 > part; j--) values[j + 1] = values[j]
        values[j + 1] = part
    }
    return n % 2 ? values[(n + 1) / 2] + 0 : (values[n / 2] + values[n / 2 + 1]) / 2
}

# The median of shares, and the lowest and the highest; nothing where none was measured.
function share(list,    n, i, low, high, values) {
    n = split(list, values, " ")
    if (!n) return ""
    low = high = values[1] + 0
    for (i = 2; i <= n; i++) {
        if (values[i] + 0 < low) low = values[i] + 0
        if (values[i] + 0 > high) high = values[i] + 0
    }
    return sprintf("%.3f (%.2f to %.2f)", median(list), low, high)
}

$1 == "kernel" { kernel = $2 ", " $3 ", " $4 " processors" }
$1 == "io" {
    if ($6) shares[$2, $3, $4] = shares[$2, $3, $4] " " $5 / $6
    layouts[$3]
    if (!seen[$2]++) counts[++n] = $2
}
$1 == "stall" {
    layouts[$3]
    stalls[$2, $3, $4] = stalls[$2, $3, $4] " " $5
    takes[$2, $3] = $4 == "splices" ? takes[$2, $3] " " $6 : takes[$2, $3]
    if (!stall_seen[$2]++) stall_counts[++m] = $2
}
$1 == "batch" {
    batches[$2, $3] = batches[$2, $3] " " $4
    if (!batch_seen[$2]++) batch_counts[++b] = $2
}
$1 == "single" {
    singles[$2, $3] = singles[$2, $3] " " $4
    if (!single_seen[$2]++) single_counts[++s] = $2
}
$1 == "commit" {
    each[$2] = each[$2] " " $5 / $3
    prepared[$2] = prepared[$2] " " $4 / $3
    if ($7) of_fio[$2] = of_fio[$2] " " $5 / $7
    if ($7) in_a_row[$2] = in_a_row[$2] " " $6 / $7
    if (!commit_seen[$2]++) commit_counts[++k] = $2
}
$1 == "command" {
    seconds[$2, $3] = seconds[$2, $3] " " $4
    if ($5 > peaks[$2, $3]) peaks[$2, $3] = $5
    if (!command_seen[$2]++) command_counts[++c] = $2
    if (!name_seen[$3]++) command_names[++names_of] = $3
}

# The time of a command as a share of its peer's; empty where it has none.
function of_peer(count, name,    peer) {
    if (name == "status") peer = "dmsetup-table"
    else if (name == "start") peer = "dmsetup-start"
    else return ""
    return sprintf("%.2f", median(seconds[count, name]) / median(seconds[count, peer]))
}

END {
    print "Linux " kernel
    workloads = split("randread randwrite read write fsync", names, " ")
    if (n) {
        printf "\n| extents | layout |"
        for (w = 1; w <= workloads; w++) printf " %s |", names[w]
        print "\n|--:|---|--:|--:|--:|--:|--:|"
    }
    for (i = 1; i <= n; i++)
        for (l = 1; l <= 2; l++) {
            layout = l == 1 ? "flat" : "switched"
            if (!(layout in layouts)) continue
            printf "| %s | %s |", counts[i], layout
            for (w = 1; w <= workloads; w++) printf " %s |", share(shares[counts[i], layout, names[w]])
            print ""
        }
    if (m) print "\n| extents | layout | longest request, ms: splices | idle | a splice takes, ms |\n|--:|---|--:|--:|--:|"
    for (i = 1; i <= m; i++)
        for (l = 1; l <= 2; l++) {
            layout = l == 1 ? "flat" : "switched"
            if (!(layout in layouts)) continue
            printf "| %s | %s | %.1f | %.1f | %d |\n", stall_counts[i], layout, \
                median(stalls[stall_counts[i], layout, "splices"]) / 1000, \
                median(stalls[stall_counts[i], layout, "idle"]) / 1000, median(takes[stall_counts[i], layout])
        }
    if (b) print "\n| extents | one command, s | plain copy and reload, s | ratio |\n|--:|--:|--:|--:|"
    for (i = 1; i <= b; i++) {
        ours = median(batches[batch_counts[i], "dm-remap"])
        plain = median(batches[batch_counts[i], "plain"])
        printf "| %s | %.2f | %.2f | %.2f |\n", batch_counts[i], ours, plain, plain ? ours / plain : 0
    }
    if (s) print "\n| extents | remaps a second, a command for each | plain copy, reload and resume | ratio |\n|--:|--:|--:|--:|"
    for (i = 1; i <= s; i++) {
        ours = median(singles[single_counts[i], "dm-remap"])
        plain = median(singles[single_counts[i], "reload"])
        printf "| %s | %.1f | %.1f | %.2f |\n", single_counts[i], ours, plain, plain ? ours / plain : 0
    }
    if (k) print "\n| extents | writing a commit, ms | of fio | written in a row, of fio | preparing it, ms |\n|--:|--:|--:|--:|--:|"
    for (i = 1; i <= k; i++)
        printf "| %s | %.2f | %s | %s | %.2f |\n", commit_counts[i], median(each[commit_counts[i]]), \
            share(of_fio[commit_counts[i]]), share(in_a_row[commit_counts[i]]), median(prepared[commit_counts[i]])
    if (c) print "\n| extents | command | s | of its peer | peak MiB |\n|--:|---|--:|--:|--:|"
    for (i = 1; i <= c; i++)
        for (j = 1; j <= names_of; j++)
            printf "| %s | %s | %.2f | %s | %.1f |\n", command_counts[i], command_names[j], \
                median(seconds[command_counts[i], command_names[j]]), of_peer(command_counts[i], command_names[j]), \
                peaks[command_counts[i], command_names[j]] / 1024
}
