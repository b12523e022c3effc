# Measures inside the guest, for benches/layout. Adds lines to $SHARE/raw:
#   io EXTENTS LAYOUT WORKLOAD OPERATIONS_PER_SECOND THOSE_OF_PLAIN
#   stall EXTENTS LAYOUT splices|idle LONGEST_MICROSECONDS SPLICE_MILLISECONDS
#   batch EXTENTS dm-remap|plain SECONDS
#   single EXTENTS dm-remap|reload SPLICES_PER_SECOND
#   commit EXTENTS COMMITS PREPARING_MS WRITING_MS WRITING_IN_A_ROW_MS FIO_MS
#   command EXTENTS NAME SECONDS PEAK_KIB
# shellcheck shell=bash
set -euo pipefail

raw() { printf '%s\n' "$*" >>"$SHARE/raw"; }

# one_fio DEVICE OPTIONS...: fio's terse line
one_fio() {
    fio --name=one --filename="$1" --direct=1 --ioengine=psync --time_based --minimal --randrepeat=1 "${@:2}"
}

# rate DEVICE WORKLOAD: requests a second
rate() {
    local options
    case $2 in
    randread) options=(--rw=randread --bs=4k) ;;
    randwrite) options=(--rw=randwrite --bs=4k) ;;
    read) options=(--rw=read --bs=1M --size=512M) ;;
    write) options=(--rw=write --bs=1M --size=512M) ;;
    fsync) options=(--rw=randwrite --bs=4k --fsync=1) ;;
    esac
    # Fields 8 and 49 of terse version 3: reads and writes a second.
    one_fio "/dev/mapper/$1" "${options[@]}" --runtime="$SECONDS_EACH" | awk -F';' '{ print $8 + $49 }'
}

# io LAYOUT WORKLOAD ROUND: the setup and the plain device, one right after the other, each of them first in every other round
io() {
    local plain ours
    (($3 % 2)) || plain=$(rate plain "$2")
    ours=$(rate bench "$2")
    ((! ($3 % 2))) || plain=$(rate plain "$2")
    raw "io $EXTENTS $1 $2 $ours $plain"
    echo "$EXTENTS extents, $1 $2: $ours/s, plain $plain/s" >&2
}

# setup_in LAYOUT: the layout of the setup, which is up
setup_in() { dm-remap layout bench "$1" >/dev/null; }

all_io() {
    local layout round workload
    for layout in $LAYOUTS; do
        setup_in "$layout"
        for ((round = 0; round < ROUNDS; round++)); do
            for workload in $WORKLOADS; do
                io "$layout" "$workload" "$round"
            done
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
        for layout in $LAYOUTS; do
            setup_in "$layout"
            printf 'defaults:\n  remap:\n    layout: %s\n' "$layout" >/tmp/config.yaml
            longest "$layout" splices
            longest "$layout" idle
        done
    done
}

# timed LINE... -- COMMAND...: adds the line with its seconds and its peak memory
timed() {
    local line=()
    while [[ $1 != -- ]]; do
        line+=("$1")
        shift
    done
    shift
    /usr/bin/time -f '%e %M' -o /tmp/time "$@" >/dev/null 2>/tmp/err || {
        tail -n 5 /tmp/err >&2
        exit 1
    }
    raw "${line[*]} $(tail -n 1 /tmp/time)"
    echo "${line[*]}: $(tail -n 1 /tmp/time)" >&2
}

# flat_table: what the setup does, in one table
flat_table() { dm-remap map bench --format dmsetup >/tmp/table; }

create() {
    dm-remap create bench --main "$main" --spare "$spare" >/dev/null 2>&1
    : >/tmp/list
    ((EXTENTS == 0)) || seq 0 "$SPACING" $(((EXTENTS - 1) * SPACING)) >/tmp/list
}

# What plain tools do for the same: copy, reload, resume.
plain_batch() {
    plain_copy "$main" "$spare" </tmp/pairs
    dmsetup reload peer /tmp/table
    dmsetup resume peer
}

all_batches() {
    local round size
    size=$(blockdev --getsz "$main")
    for ((round = 0; round < ROUNDS; round++)); do
        dd if=/dev/zero of="$spare" bs=1M count=8 oflag=direct status=none
        create
        timed batch "$EXTENTS" dm-remap -- dm-remap remap bench --from-badblocks /tmp/list --block-size 4096
        flat_table
        local number
        number=$(printf '%d:%d' "0x$(stat -c %t "$spare")" "0x$(stat -c %T "$spare")")
        awk -v spare="$number" '$4 == spare { print $1, $5, $2 }' /tmp/table >/tmp/pairs
        dm-remap deactivate bench >/dev/null
        dmsetup create peer --table "0 $size linear $main 0"
        export -f plain_batch
        export main spare
        timed batch "$EXTENTS" plain -- bash -c plain_batch
        dmsetup remove peer
    done
    dd if=/dev/zero of="$spare" bs=1M count=8 oflag=direct status=none
}

# per_second NAME COMMAND: runs it again and again; adds how often it did in a second
per_second() {
    local begin done=0 took=0
    begin=$(date +%s%3N)
    while ((took < SECONDS_EACH * 1000)); do
        "$2" >/dev/null
        done=$((done + 1))
        took=$(($(date +%s%3N) - begin))
    done
    raw "single $EXTENTS $1 $(awk -v done="$done" -v took="$took" 'BEGIN { printf "%.2f", done * 1000 / took }')"
    echo "$EXTENTS extents, $1: $done in $took ms" >&2
}

remap_one() {
    dm-remap remap bench "$((next * 8))+8"
    next=$((next + 3))
}

# What plain tools do for the same: copy one unit, load the table, which is on disk already, and resume.
reload_one() {
    plain_copy "$main" "$spare" <<<"$((copied * 8)) $((20480 + copied * 8)) 8"
    copied=$(((copied + 3) % 1024))
    dmsetup reload peer /tmp/table
    dmsetup resume peer
}

all_singles() {
    local round copied=0
    for ((round = 0; round < ROUNDS; round++)); do
        per_second dm-remap remap_one
        flat_table
        # The peer writes where slots may be: what it overwrites is not read before all is made anew.
        dm-remap deactivate bench >/dev/null
        dd if="$spare" of=/tmp/spare bs=1M count=16 status=none
        dmsetup create peer /tmp/table
        per_second reload reload_one
        dmsetup remove peer
        dd if=/tmp/spare of="$spare" bs=1M oflag=direct status=none
        dm-remap activate bench --main "$main" >/dev/null
    done
}

all_commits() {
    local round count preparing writing in_a_row fio
    dm-remap deactivate bench >/dev/null
    for ((round = 0; round < ROUNDS; round++)); do
        read -r count preparing writing in_a_row < <(commit_speed "$spare" "$SECONDS_EACH" /tmp/iolog)
        # fio writes over the metadata.
        dd if="$spare" of=/tmp/spare bs=1M count=8 status=none
        # Field 50 of terse version 3: milliseconds that the writes ran.
        fio=$(fio --name=one --read_iolog=/tmp/iolog --direct=1 --ioengine=psync --minimal | awk -F';' '{ print $50 }')
        dd if=/tmp/spare of="$spare" bs=1M oflag=direct status=none
        raw "commit $EXTENTS $count $preparing $writing $in_a_row $fio"
        echo "$EXTENTS extents: $count commits, $writing ms ($in_a_row ms one right after the other, $preparing ms to prepare them), fio $fio ms" >&2
    done
    dm-remap activate bench --main "$main" >/dev/null
}

all_commands() {
    local round at
    for ((round = 0; round < ROUNDS; round++)); do
        at=$((next * 8))
        next=$((next + 3))
        # A device with the same table; not for long, because it keeps the disks open.
        flat_table
        dmsetup create same /tmp/table
        timed command "$EXTENTS" dmsetup-table -- dmsetup table same
        dmsetup remove same
        timed command "$EXTENTS" status -- dm-remap status bench
        timed command "$EXTENTS" dmsetup-start -- dmsetup --version
        timed command "$EXTENTS" start -- dm-remap --version
        timed command "$EXTENTS" list -- dm-remap list
        timed command "$EXTENTS" map -- dm-remap map bench
        timed command "$EXTENTS" policy -- dm-remap policy bench --allocation best-fit
        timed command "$EXTENTS" remap -- dm-remap remap bench "$at+8"
        timed command "$EXTENTS" restore -- dm-remap restore bench "$at+8"
        timed command "$EXTENTS" scan -- dm-remap scan bench --report-only --range 0+8
        timed command "$EXTENTS" deactivate -- dm-remap deactivate bench
        timed command "$EXTENTS" activate -- dm-remap activate bench --main "$main"
    done
}

mkdir /tmp/bin
cp "$SHARE/dm-remap" "$SHARE/plain_copy" "$SHARE/commit_speed" /tmp/bin/
PATH=/tmp/bin:$PATH
# shellcheck disable=SC2153 # set by scripts/guest
main=$GUEST_DISK0 spare=$GUEST_DISK1
raw "kernel $(uname -r) $GUEST_KERNEL $(nproc)"
if [[ " $* " == *' batch '* ]]; then
    all_batches
fi
[[ $* != batch ]] || exit 0
create
if ((EXTENTS > 0)); then
    all=(dm-remap remap bench --from-badblocks /tmp/list --block-size 4096)
    if [[ " $* " == *' commands '* ]]; then
        timed command "$EXTENTS" remap-all -- "${all[@]}"
    else
        "${all[@]}" >/dev/null
    fi
fi
# The first unit behind all that is remapped.
next=$((EXTENTS * SPACING + 4))
[[ " $* " != *' commands '* ]] || all_commands
[[ " $* " != *' single '* ]] || all_singles
[[ " $* " != *' commit '* ]] || all_commits
[[ " $* " == *' io '* || " $* " == *' stall '* ]] || exit 0
# dm-remap takes no disk that others use, so this comes after it.
dmsetup create plain --table "0 $(blockdev --getsz "$main") linear $main 0"
[[ " $* " != *' io '* ]] || all_io
[[ " $* " != *' stall '* ]] || all_stalls
