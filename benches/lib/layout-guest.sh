# Measures inside the guest, for benches/layout. Adds lines to $SHARE/raw:
#   io EXTENTS LAYOUT WORKLOAD OPERATIONS_PER_SECOND
#   stall EXTENTS LAYOUT splices|idle LONGEST_MICROSECONDS SPLICE_MILLISECONDS
# shellcheck shell=bash
set -euo pipefail

raw() { printf '%s\n' "$*" >>"$SHARE/raw"; }

# one_fio DEVICE OPTIONS...: fio's terse line
one_fio() {
    fio --name=one --filename="$1" --direct=1 --ioengine=psync --time_based --minimal --randrepeat=1 "${@:2}"
}

# io DEVICE LAYOUT WORKLOAD
io() {
    local options rate
    case $3 in
    randread) options=(--rw=randread --bs=4k) ;;
    randwrite) options=(--rw=randwrite --bs=4k) ;;
    read) options=(--rw=read --bs=1M) ;;
    write) options=(--rw=write --bs=1M) ;;
    fsync) options=(--rw=randwrite --bs=4k --fsync=1) ;;
    esac
    # Fields 8 and 49 of terse version 3: reads and writes a second.
    rate=$(one_fio "$1" "${options[@]}" --runtime="$SECONDS_EACH" | awk -F';' '{ print $8 + $49 }')
    raw "io $EXTENTS $2 $3 $rate"
    echo "$EXTENTS extents, $2 $3: $rate/s" >&2
}

# setup_in LAYOUT: the layout of the setup, which is up
setup_in() { dm-remap layout bench "$1" >/dev/null; }

all_io() {
    local round workload
    for ((round = 0; round < ROUNDS; round++)); do
        for workload in randread randwrite read write fsync; do
            io /dev/mapper/plain plain "$workload"
            setup_in flat
            io /dev/mapper/bench flat "$workload"
            setup_in switched
            io /dev/mapper/bench switched "$workload"
        done
    done
}

# longest LAYOUT KIND: the longest request of fio while splices are made one after the other, or while nothing is
longest() {
    local at fio begin splices=0 took=0 max
    one_fio /dev/mapper/bench --rw=randwrite --bs=4k --thinktime=200 --runtime="$STALL_SECONDS" >/tmp/fio.out &
    fio=$!
    sleep 1
    begin=$(date +%s%3N)
    # The last splice must end before fio does, or the idle disk would be measured.
    while [[ $2 == splices ]] && (($(date +%s%3N) - begin + took < (STALL_SECONDS - 2) * 1000)); do
        at=$((next * 8))
        next=$((next + 3))
        dm-remap remap bench "$at+8" --config /tmp/config.yaml >/dev/null
        splices=$((splices + 1))
        took=$((($(date +%s%3N) - begin) / splices))
    done
    wait "$fio"
    # Field 56 of terse version 3: the longest completion of a write, in microseconds.
    max=$(awk -F';' '{ print $56 }' /tmp/fio.out)
    raw "stall $EXTENTS $1 $2 $max $took"
    echo "$EXTENTS extents, $1, $2: longest request $max us, $splices splices of $took ms" >&2
}

all_stalls() {
    local round layout
    for ((round = 0; round < ROUNDS; round++)); do
        for layout in flat switched; do
            setup_in "$layout"
            printf 'defaults:\n  remap:\n    layout: %s\n' "$layout" >/tmp/config.yaml
            longest "$layout" splices
            longest "$layout" idle
        done
    done
}

mkdir /tmp/bin
cp "$SHARE/dm-remap" /tmp/bin/
PATH=/tmp/bin:$PATH
# shellcheck disable=SC2153 # set by scripts/guest
main=$GUEST_DISK0 spare=$GUEST_DISK1
raw "kernel $(uname -r) $GUEST_KERNEL $(nproc)"
dm-remap create bench --main "$main" --spare "$spare" >/dev/null
if ((EXTENTS)); then
    seq 0 10 $(((EXTENTS - 1) * 10)) >/tmp/list
    dm-remap remap bench --from-badblocks /tmp/list --block-size 4096 >/dev/null
fi
# dm-remap takes no disk that others use, so this comes after it.
dmsetup create plain --table "0 $(blockdev --getsz "$main") linear $main 0"
# The first unit behind all that is remapped.
next=$((EXTENTS * 10 + 4))
for part in "$@"; do
    case $part in
    io) all_io ;;
    stall) all_stalls ;;
    esac
done
