# Measures inside the guest, for benches/scan. Adds lines to $SHARE/raw: the words that the tables are made from.
# shellcheck shell=bash
set -euo pipefail

raw() { printf '%s\n' "$*" >>"$SHARE/raw"; }

setup_tools() {
    mkdir /tmp/bin
    cp "$SHARE/dm-remap" /tmp/bin/ # on tmpfs, which does not forget it with the page cache
    PATH=/tmp/bin:$PATH
    raw "kernel $(uname -r) $GUEST_KERNEL $(nproc)"
}

# --- speed ---------------------------------------------------------------------------------------------------------

fio_read() { fio --name=read --filename="$1" --readonly --rw=read --bs=1M --direct=1 --output-format=terse "${@:2}"; }

# reader NAME DISK: reads the disk from end to end
reader() {
    case $1 in
    fio-libaio) fio_read "$2" --ioengine=libaio --iodepth=4 ;;
    fio-psync) fio_read "$2" --ioengine=psync ;;
    badblocks) badblocks -sv "$2" ;;
    badblocks-1M) badblocks -sv -b 4096 -c 256 "$2" ;;
    ddrescue-direct) ddrescue --force --idirect "$2" /dev/null ;;
    ddrescue) ddrescue --force "$2" /dev/null ;;
    scan) dm-remap scan --device "$2" --restart --no-progress ;;
    scan-max) dm-remap scan --device "$2" --restart --no-progress --rate max ;;
    # Hardly more than its start and its end, which fio's own figures leave out.
    scan-start) dm-remap scan --device "$2" --restart --no-progress --range 0+2048 ;;
    esac
}

# An empty page cache, but for the programs: they come over a slow way, and starting them is not what is measured.
drop_caches() {
    sync
    echo 3 >/proc/sys/vm/drop_caches
    { fio --version; badblocks; ddrescue --version; dm-remap --version; sort --version; } >/dev/null 2>&1 || true
}

# read_disk NAME DISK KIND
read_disk() {
    local wall user sys own=0 bytes TIMEFORMAT='%R %U %S'
    drop_caches
    { time reader "$1" "$2" >/tmp/out 2>/tmp/err </dev/null || touch /tmp/failed; } 2>/tmp/time
    if [[ -e /tmp/failed ]]; then
        echo "benches/scan: $1 failed:" >&2
        tail -n 5 /tmp/out /tmp/err >&2
        exit 1
    fi
    read -r wall user sys </tmp/time
    # fio says how long it read, without its start and end, in milliseconds.
    [[ $1 != fio-* ]] || own=$(awk -F';' 'NF > 9 { print $9 / 1000 }' /tmp/out)
    bytes=$(blockdev --getsize64 "$2")
    raw "speed $3 $1 $bytes $wall $user $sys $own"
    printf '%-10s %-16s %s s\n' "$3" "$1" "$wall" >&2
}

speed() {
    local round name names=(fio-libaio scan badblocks-1M scan-start scan-max fio-psync badblocks ddrescue-direct ddrescue)
    # shellcheck disable=SC2153 # set by scripts/guest
    local fast=$GUEST_DISK0
    for ((round = 0; round < ROUNDS; round++)); do
        for name in "${names[@]}"; do
            # Emulated copying takes it ten times as long as the others.
            [[ $name != ddrescue || $GUEST_KERNEL == uml || $round == 0 ]] || continue
            read_disk "$name" "$fast" fast
            [[ ! -v GUEST_DISK1 ]] || read_disk "$name" "$GUEST_DISK1" throttled
        done
    done
}

# --- foreground ----------------------------------------------------------------------------------------------------

main='' main_stat='' setup_stat='' scan_pid='' half=0

make_setup() {
    if [[ $HARD_DISK == serial ]]; then
        # One command at a time, 10 ms each, and what the copying takes.
        modprobe scsi_debug dev_size_mb=512 ndelay=10000000 max_queue=1
        for _ in {1..50}; do
            main=$(lsblk -dno PATH,MODEL | awk '/scsi_debug/ { print $1 }')
            [[ -z $main ]] || break
            sleep 0.1
        done
    else
        main=$GUEST_DISK1
    fi
    dm-remap create bench --main "$main" --spare "$GUEST_DISK0" --quiet >/dev/null
    main_stat=/sys/class/block/${main##*/}/stat
    setup_stat=/sys/dev/block/$(stat -L -c '%Hr:%Lr' /dev/mapper/bench)/stat
}

# Until it is killed, writes every 50 ms: milliseconds, sectors that the scan has read (what was read from main and not
# through the setup), requests made to the setup. Starts no program.
sampler() {
    local main_words setup_words
    exec 7<>/tmp/never
    while :; do
        read -ra main_words <"$main_stat"
        read -ra setup_words <"$setup_stat"
        echo "$((${EPOCHREALTIME/./} / 1000)) $((main_words[2] - setup_words[2])) $((setup_words[0] + setup_words[4]))"
        read -rt 0.05 -u 7 || true
    done
}

start_scan() {
    local options=(--restart --report-only --no-progress)
    case $1 in
    none | none-again) return 0 ;;
    idle) options+=(--idle) ;;
    max) options+=(--rate max) ;;
    esac
    # Over and over: at full speed it reaches the end.
    (
        trap 'kill $! || true; wait; exit 0' TERM
        while :; do
            dm-remap scan bench "${options[@]}" >/tmp/scan.out 2>/tmp/scan.err &
            wait $! || { cp /tmp/scan.err "$SHARE/failed"; exit 1; }
        done
    ) 2>/dev/null &
    scan_pid=$!
}

stop_scan() {
    [[ -z $scan_pid ]] || { kill "$scan_pid" && wait "$scan_pid"; } 2>/dev/null || true
    scan_pid=''
    [[ ! -e $SHARE/failed ]] || { echo "benches/scan: the scan failed: $(<"$SHARE/failed")" >&2; exit 1; }
}

# fio_options LOAD
fio_options() {
    case $1 in
    read-1) echo --rw=randread --iodepth=1 ;;
    read-4) echo --rw=randread --iodepth=4 ;;
    mixed-1) echo --rw=randrw --rwmixread=70 --iodepth=1 ;;
    mixed-4) echo --rw=randrw --rwmixread=70 --iodepth=4 ;;
    half) echo --rw=randread --iodepth=1 --rate_iops="$half" ;;
    esac
}

# From the samples: sectors that the scan read while fio measured, and in how many milliseconds; how long after fio's last
# request the scan was at half of its full speed again (milliseconds), from where half a second was read at it; and its
# full speed in MiB/s, which is that at the end of the samples.
what_the_scan_did() {
    awk '{ t[NR] = $1; s[NR] = $2; if (NR > 1 && $3 != last) { end = NR; if (!begin) begin = NR }; last = $3 }
        END {
            # fio measures 2 s after its first request.
            while (t[begin] < t[end] - 1000 * seconds) begin++
            printf "%d %d ", s[end] - s[begin], t[end] - t[begin]
            first = NR > 20 ? NR - 20 : 1
            full = (s[NR] - s[first]) / (t[NR] - t[first])
            for (i = end; i + 10 <= NR && full > 0; i++)
                if ((s[i + 10] - s[i]) / (t[i + 10] - t[i]) >= full / 2) { print t[i] - t[end], int(full / 2.048); exit }
            print -1, 0
        }' seconds="$SECONDS_EACH" "$1"
}

# foreground_once LOAD MODE ROUND
foreground_once() {
    local options scan='0 1 -1 0' sampler_pid
    read -ra options <<<"$(fio_options "$1")"
    start_scan "$2"
    sleep 1.5
    sampler >/tmp/samples &
    sampler_pid=$!
    fio --name=load --filename=/dev/mapper/bench --bs=4k --direct=1 --ioengine=libaio --time_based --ramp_time=2 \
        --runtime="$SECONDS_EACH" --randrepeat=1 --norandommap --output-format=terse "${options[@]}" >/tmp/fio
    if [[ $2 != none* ]]; then
        sleep 3.5
        scan=$(what_the_scan_did /tmp/samples)
    fi
    { kill "$sampler_pid" && wait "$sampler_pid"; } 2>/dev/null || true
    stop_scan
    # KiB and milliseconds of reads and of writes, and their mean latencies in microseconds
    awk -F';' 'NF > 80 { print $6, $9, $40, $47, $50, $81 }' /tmp/fio >/tmp/figures
    raw "foreground $HARD_DISK/$1 $2 $3 $(</tmp/figures) $scan"
    printf '%-8s %-10s %s\n' "$1" "$2" "$(</tmp/figures) $scan" >&2
    # Half of what the disk can, in requests a second.
    ((half > 0)) || half=$(awk '{ printf "%d", $1 / 4 / $2 * 1000 / 2 }' /tmp/figures)
}

foreground() {
    local round load mode
    mkfifo /tmp/never
    make_setup
    for ((round = 0; round < ROUNDS; round++)); do
        for load in $LOADS; do
            for mode in none scan none-again idle; do foreground_once "$load" "$mode" "$round"; done
            # For comparison only: once.
            ((round > 0)) || foreground_once "$load" max "$round"
        done
    done
}

setup_tools
"$1"
