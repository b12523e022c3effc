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

$1 == "kernel" { kernel = $2 ", " $3 ", " $4 " processors" }
$1 == "io" {
    rates[$2, $3, $4] = rates[$2, $3, $4] " " $5
    if (!seen[$2]++) counts[++n] = $2
}
$1 == "stall" {
    stalls[$2, $3, $4] = stalls[$2, $3, $4] " " $5
    takes[$2, $3] = $4 == "splices" ? takes[$2, $3] " " $6 : takes[$2, $3]
    if (!stall_seen[$2]++) stall_counts[++m] = $2
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
            printf "| %s | %s |", counts[i], layout
            for (w = 1; w <= workloads; w++) {
                plain = median(rates[counts[i], "plain", names[w]])
                printf " %.3f |", plain ? median(rates[counts[i], layout, names[w]]) / plain : 0
            }
            print ""
        }
    if (m) print "\n| extents | layout | longest request, ms: splices | idle | a splice takes, ms |\n|--:|---|--:|--:|--:|"
    for (i = 1; i <= m; i++)
        for (l = 1; l <= 2; l++) {
            layout = l == 1 ? "flat" : "switched"
            printf "| %s | %s | %.1f | %.1f | %d |\n", stall_counts[i], layout, \
                median(stalls[stall_counts[i], layout, "splices"]) / 1000, \
                median(stalls[stall_counts[i], layout, "idle"]) / 1000, median(takes[stall_counts[i], layout])
        }
}
