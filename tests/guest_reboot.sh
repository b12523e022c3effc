#!/bin/bash
# A setup outlives a reboot: several guests, one after the other, on the same disk files. Needs no root on the host.
#
# 1. main on a persistent disk under dust, which makes medium errors; the layer has a UUID, so main proves itself:
#    activation by name, by UUID and by a spare. Lost sectors answer EIO across reboots until they are written.
# 2. the bare disk as main has no identity: it must be named, and the refusal says so.
# 3. scsi_debug, whose contents are saved before and written back after; its WWN is its identity.
# The machine is never put down cleanly in 1: the power goes.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

program=${DM_REMAP:-${CARGO_TARGET_DIR:-target}/debug/dm-remap}
program=$(readlink -f "$program")
[[ -x $program ]] || { echo "guest_reboot: $program is missing: run 'cargo build' first" >&2; exit 1; }

work=$(mktemp -d "${TMPDIR:-/tmp}/guest-reboot.XXXXXX")
trap 'rm -rf "$work"' EXIT
truncate -s 16M "$work/main"
truncate -s 12M "$work/spare0" "$work/spare1"

seed=${DM_REMAP_SEED:-$RANDOM}
echo "seed $seed (DM_REMAP_SEED=$seed repeats this)"
RANDOM=$seed

# What every boot begins with.
cat >"$work/lib.sh" <<'LIB'
set -euo pipefail
work=$1 program=$2 bad=$3
main=$GUEST_DISK0 spare0=$GUEST_DISK1 spare1=$GUEST_DISK2
mnt=/tmp/mnt
mkdir -p $mnt
fail() { echo "guest_reboot: $*" >&2; exit 1; }
# run CODE WORDS... -- ARGUMENTS...: the program ends with the code and prints all the words.
run() {
    local code=$1 got=0 words=()
    shift
    while [[ $1 != -- ]]; do words+=("$1"); shift; done
    shift
    "$program" "$@" >/tmp/out 2>&1 || got=$?
    [[ $got == "$code" ]] || { cat /tmp/out >&2; fail "'$*' ended with $got instead of $code"; }
    for word in ${words[@]+"${words[@]}"}; do
        grep -qF -- "$word" /tmp/out || { cat /tmp/out >&2; fail "'$*' does not say '$word'"; }
    done
}
weak() { # the layer with medium errors, on the sectors of $bad
    dmsetup create weak -u TEST-weak-disk --table "0 $(blockdev --getsz "$main") dust $main 0 512"
    for sector in $bad; do dmsetup message weak 0 addbadblock "$sector"; done
    dmsetup message weak 0 enable
}
reads() { dd if="$1" bs=512 skip="$2" count=1 iflag=direct status=none 2>/dev/null; }
eio() { if reads "$1" "$2" >/dev/null; then fail "sector $2 can be read"; fi; }
# Every sector of the device but those named is as in the golden image.
same() {
    local device=$1 sector
    shift
    dd if="$device" of=/tmp/now bs=512 iflag=direct conv=noerror,sync status=none 2>/dev/null || true
    for sector; do dd if="$work/golden" of=/tmp/now bs=512 skip="$sector" seek="$sector" count=1 conv=notrunc status=none; done
    cmp /tmp/now "$work/golden" || fail "healthy data on $device differs"
}
LIB

boot() { # boot STEP < script
    { cat "$work/lib.sh"; cat; } >"$work/$1.sh"
    scripts/guest --disk "$work/main" --disk "$work/spare0" --disk "$work/spare1" --share "$work" --timeout 120 \
        -- bash "$work/$1.sh" "$work" "$program" "$bad" || { echo "guest_reboot: failed in '$1'" >&2; exit 1; }
    echo "ok: $1"
}

# Four single sectors in the data of a file that is the last to be written; known after the filesystem is made.
bad=
boot prepare <<'BOOT'
mkfs.ext4 -q -F -b 4096 -E lazy_itable_init=0,lazy_journal_init=0 "$main"
mount -o noatime "$main" $mnt
for n in 1 2 3 4; do head -c 1200000 /dev/urandom >$mnt/file$n; done
(cd $mnt && sha256sum file1 file2 file4) >"$work/sums"
umount $mnt
debugfs -D -R 'blocks /file3' "$main" 2>/dev/null >"$work/blocks"
BOOT
read -ra blocks <"$work/blocks"
for turn in 1 2 3 4; do
    # A quarter of the file each, so that no two share a unit.
    pick=$(((turn - 1) * ${#blocks[@]} / 4 + RANDOM % (${#blocks[@]} / 4)))
    bad+="${bad:+ }$((blocks[pick] * 8 + RANDOM % 8))"
done
echo "bad sectors: $bad"

boot remap-while-mounted <<'BOOT'
weak
run 0 -- create data --main /dev/mapper/weak --spare "$spare0" "$spare1"
mount -o noatime /dev/mapper/data $mnt
run 3 "held: reads answer EIO until it is written" -- remap data $bad
(cd $mnt && sha256sum --quiet -c "$work/sums")
umount $mnt
for sector in $bad; do eio /dev/mapper/data "$sector"; done
dmsetup message weak 0 disable
dd if="$main" of="$work/golden" bs=1M iflag=direct status=none
dmsetup message weak 0 enable
same /dev/mapper/data $bad
run 0 '"schema_version": 1' -- --json map data
"$program" --json map data | jq -r '.extents[] | "\(.start) \(.count) \(.spare) \(.slot)"' >"$work/map"
"$program" --json list | jq -r '.setups[0].uuid' >"$work/uuid"
BOOT

boot by-name-after-power-loss <<'BOOT'
read -ra sectors <<<"$bad"
run 4 "main of 'data'" "--main" -- activate data # the layer is not there: the bare disk proves nothing
weak
run 0 "'data' is up" "not put down cleanly" -- activate data
same /dev/mapper/data $bad
for sector in $bad; do eio /dev/mapper/data "$sector"; done
[[ $("$program" --json map data | jq -r '.extents[] | "\(.start) \(.count) \(.spare) \(.slot)"') == "$(<"$work/map")" ]] || fail "the map differs"
mount -o ro,noload /dev/mapper/data $mnt
(cd $mnt && sha256sum --quiet -c "$work/sums")
umount $mnt
# One is written, and the power goes with nothing said to anybody.
head -c 512 /dev/urandom >"$work/new"
dd if="$work/new" of=/dev/mapper/data bs=512 seek="${sectors[0]}" count=1 oflag=direct conv=notrunc status=none
dd if="$work/new" of="$work/golden" bs=512 seek="${sectors[0]}" count=1 conv=notrunc status=none
BOOT

boot by-uuid <<'BOOT'
read -ra sectors <<<"$bad"
weak
run 0 "not put down cleanly" -- activate "$(<"$work/uuid")"
reads /dev/mapper/data "${sectors[0]}" | cmp - "$work/new" || fail "what was written is not what is read"
same /dev/mapper/data "${sectors[@]:1}"
for sector in "${sectors[@]:1}"; do eio /dev/mapper/data "$sector"; done
run 3 "rewritten" "held" -- status data
dd if="$work/new" of=/dev/mapper/data bs=512 seek="${sectors[1]}" count=1 oflag=direct conv=notrunc status=none
dd if="$work/new" of="$work/golden" bs=512 seek="${sectors[1]}" count=1 conv=notrunc status=none
run 0 -- deactivate data
BOOT

boot by-a-spare <<'BOOT'
read -ra sectors <<<"$bad"
weak
"$program" activate --spare "$spare1" >/tmp/out 2>&1 || fail "$(</tmp/out)"
if grep -q "cleanly" /tmp/out; then fail "it was put down cleanly: $(</tmp/out)"; fi
same /dev/mapper/data "${sectors[@]:2}"
run 4 "still cannot read" -- restore data "${sectors[2]}"
run 0 -- deactivate data
# Main proves itself by the layer's UUID; another device is not taken.
run 4 "$spare0" -- activate data --main "$spare0"
BOOT

boot a-main-without-identity <<'BOOT'
dd if=/dev/zero of="$spare0" bs=1M count=12 oflag=direct status=none
dd if=/dev/zero of="$spare1" bs=1M count=12 oflag=direct status=none
run 0 "will need --main" -- create bare --main "$main" --spare "$spare0"
run 0 -- remap bare 100 5000+20
dd if=/dev/mapper/bare of="$work/golden" bs=1M iflag=direct status=none
run 0 -- deactivate bare
BOOT

boot a-main-without-identity-again <<'BOOT'
run 4 "cannot be proven" "$main" "--main" -- activate bare
run 4 "cannot be proven" "--main" -- activate --spare "$spare0"
run 0 "'bare' is up" -- activate bare --main "$main"
same /dev/mapper/bare
run 0 "dissolved" -- destroy bare --merge-back
same "$main"
BOOT

boot scsi-debug <<'BOOT'
modprobe scsi_debug dev_size_mb=8
for n in $(seq 50); do [[ -b /dev/sda ]] && break; sleep 0.1; done
head -c 8M /dev/urandom | dd of=/dev/sda bs=1M iflag=fullblock oflag=direct status=none
dd if=/dev/sda of="$work/golden" bs=1M iflag=direct status=none
echo 5001 >/sys/module/scsi_debug/parameters/medium_error_start
echo 2 >/sys/module/scsi_debug/parameters/medium_error_count
echo 2 >/sys/bus/pseudo/drivers/scsi_debug/opts
run 0 -- create scsi --main /dev/sda --spare "$spare0"
run 3 "LOST 5001+2" -- remap scsi 5001+2 9000
same /dev/mapper/scsi 5001 5002
dd if=/dev/zero of=/dev/mapper/scsi bs=512 seek=5002 count=1 oflag=direct conv=notrunc status=none
dd if=/dev/zero of="$work/golden" bs=512 seek=5002 count=1 conv=notrunc status=none
echo 0 >/sys/bus/pseudo/drivers/scsi_debug/opts
dd if=/dev/sda of="$work/sda" bs=1M iflag=direct status=none
BOOT

boot scsi-debug-again <<'BOOT'
modprobe scsi_debug dev_size_mb=8 opts=2 medium_error_start=5001 medium_error_count=2
for n in $(seq 50); do [[ -b /dev/sda ]] && break; sleep 0.1; done
dd if="$work/sda" of=/dev/sda bs=1M oflag=direct status=none
run 0 "not put down cleanly" -- activate scsi
same /dev/mapper/scsi 5001
eio /dev/mapper/scsi 5001
run 3 "rewritten" -- status scsi
BOOT
echo "guest_reboot: all well"
