# Measures inside the guest, for benches/assembly. Adds lines to $SHARE/raw: what was done, its seconds, its peak in KiB.
# shellcheck shell=bash
set -euo pipefail

raw() { printf '%s\n' "$*" >>"$SHARE/raw"; }

# measure NAME COMMAND...: its wall time and peak memory; it must end with 0; discover with 3 where it has something to say
measure() {
    local name=$1 rc=0 took
    shift
    sync
    /usr/bin/time -f '%e %M' -o /tmp/time "$@" >/tmp/out 2>/tmp/err </dev/null || rc=$?
    took=$(tail -n 1 /tmp/time)
    echo "$name: $took KiB, exit code $rc" >&2
    if ((rc)) && ! { ((rc == 3)) && [[ $name == discover* ]]; }; then
        tail -n 5 /tmp/out /tmp/err >&2
        exit 1
    fi
    raw "capacity $name $took"
}

make_devices() {
    local i
    # Room for the extents, 10 units of 8 sectors apart; sparse, in memory.
    truncate -s $(((EXTENTS + 16) * 80 * 512)) /dev/shm/main
    main=$(losetup -f --show /dev/shm/main)
    # shellcheck disable=SC2153 # set by scripts/guest
    for ((i = 0; i < SPARES; i++)); do
        truncate -s $(((10240 + EXTENTS * 8 / SPARES + 4096) * 512)) "/dev/shm/spare$i"
        spares+=("$(losetup -f --show "/dev/shm/spare$i")")
    done
    seq 0 10 $(((EXTENTS - 1) * 10)) >/tmp/badblocks
}

cp "$SHARE/dm-remap" /tmp/
PATH=/tmp:$PATH
main='' spares=()
make_devices

measure create dm-remap create cap --main "$main" --spare "${spares[@]}"
measure remap-all dm-remap remap cap --from-badblocks /tmp/badblocks --block-size 4096
measure remap-one dm-remap remap cap 40+8
measure commit dm-remap policy cap --allocation best-fit
measure status dm-remap status cap
measure discover-up dm-remap discover --scan-all
measure dmsetup-table dmsetup table cap
grep -c . /tmp/out >/tmp/lines
cp /tmp/out /tmp/table
measure deactivate dm-remap deactivate cap
measure discover dm-remap discover --scan-all
measure reassemble dm-remap reassemble --setup cap --main "$main"
measure deactivate dm-remap deactivate cap
measure dmsetup-create dmsetup create peer /tmp/table
dmsetup remove peer
raw "setup $EXTENTS $SPARES $(cat /tmp/lines) $(uname -r)"
