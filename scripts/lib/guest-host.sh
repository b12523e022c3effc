# No guest at all: the command runs on this machine. Sourced by scripts/guest.
# shellcheck shell=bash disable=SC2154 # variables are shared with scripts/guest

# True when this machine can stand in for a guest.
host_usable() {
    ((EUID == 0)) || return 1
    [[ -c /dev/mapper/control ]] || modprobe -q dm-mod 2>/dev/null || return 1
    [[ -c /dev/mapper/control ]] && dmsetup version >/dev/null 2>&1
}

host_run() {
    local i loop module rc=0
    host_usable || die 125 "--kernel host: this machine has no usable device-mapper, or you are not root"
    for module in "${modules[@]}"; do
        modprobe "$module" || die 125 "cannot load module $module"
    done
    envs+=(GUEST_KERNEL=host)
    for i in "${!disks[@]}"; do
        loop=$(losetup --find --show "$run/disk$i") || die 125 "cannot make a loop device for ${disks[i]}"
        host_loops+=("$loop")
        envs+=("GUEST_DISK$i=$loop")
    done
    timeout --kill-after=10 "$time_limit" env "${envs[@]}" "${argv[@]}" </dev/null || rc=$?
    ((rc != 124)) || die 124 "time limit of $time_limit s exceeded"
    exit "$rc"
}

# Loop devices stay busy as long as something maps them: say so instead of leaking them silently.
host_cleanup() {
    local loop
    for loop in "${host_loops[@]}"; do
        losetup --detach "$loop" || echo "guest: $loop is still in use" >&2
    done
}
