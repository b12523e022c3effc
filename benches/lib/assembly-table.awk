#!/usr/bin/awk -f
# Tables from the raw figures of benches/assembly: medians of the rounds.

function median(name, what,    n, i, j, t, v) {
    n = count[name]
    for (i = 1; i <= n; i++) v[i] = value[name, what, i]
    for (i = 2; i <= n; i++)
        for (j = i; j > 1 && v[j] < v[j - 1]; j--) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
    return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
}

$1 == "discover" {
    if (!($2 in count)) order[++programs] = $2
    count[$2]++
    value[$2, "wall", count[$2]] = $3
    value[$2, "cpu", count[$2]] = $4 + $5
    value[$2, "mem", count[$2]] = $6
}
$1 == "capacity" { step[++steps] = $2; wall[steps] = $3; mem[steps] = $4 }
$1 == "setup" { setup = $2 " extents over " $3 " spares, a table of " $4 " lines, kernel " $5 }

END {
    if (programs && !steps) {
        printf "%-10s %8s %8s %12s %12s %10s\n", "program", "s", "CPU s", "s less read", "of blkid", "peak MiB"
        for (i = 1; i <= programs; i++) {
            name = order[i]
            printf "%-10s %8.2f %8.2f %12.2f %12.2f %10.1f\n", name, median(name, "wall"), median(name, "cpu"), \
                median(name, "wall") - median("reader", "wall"), median(name, "wall") / median("blkid", "wall"), \
                median(name, "mem") / 1024
        }
    }
    if (steps) {
        print setup
        printf "%-16s %8s %10s\n", "step", "s", "peak MiB"
        for (i = 1; i <= steps; i++) printf "%-16s %8.2f %10.1f\n", step[i], wall[i], mem[i] / 1024
    }
}
