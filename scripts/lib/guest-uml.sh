# User-mode Linux as the guest kernel. Sourced by scripts/guest.
# shellcheck shell=bash disable=SC2154,SC2034 # variables are shared with scripts/guest

uml_prepare() {
    apt_install user-mode-linux kmod dmsetup util-linux || exit 127
    moddir=/usr/lib/uml/modules
    ((${#disks[@]} <= 16)) || die 2 "user-mode Linux has at most 16 disks"
    # Not in $run: /dev/shm may be mounted noexec.
    xstate=$(mktemp --suffix=.so "${TMPDIR:-/tmp}/dm-remap-xstate.XXXXXX")
    uml_xstate "$xstate" || die 125 "cannot compile $lib/uml-xstate.c"
    [[ -z $smp || $smp == 1 ]] || die 2 "user-mode Linux has one processor (--smp needs --kernel qemu)"
    ((${#disk_opts[@]} == 0)) || die 2 "--disk-opt needs --kernel qemu"
}

# The name of disk number $1 in the guest.
uml_disk_name() {
    local letters=abcdefghijklmnop
    printf '/dev/ubd%s' "${letters:$1:1}"
}

# uml_fstab NAME DIR AT: mounts a host directory, writable. "sync": what the command writes must be on the host at
# once, not when the guest's page cache sees fit.
uml_fstab() { fstab_line none "$3" hostfs "X-mount.mkdir,sync,$2"; }

uml_command() {
    local i
    # shellcheck disable=SC2054 # con0 takes a pair
    guest_cmd=(linux.uml "mem=${mem}M" rootfstype=hostfs rootflags=/ ro devtmpfs.mount=0 "init=$run/init"
        "umid=guest$$" "uml_dir=$run/uml/" con=null con0=null,fd:1 ssl=null console=tty0 loglevel=7
        panic=-1 oops=panic zswap.enabled=0)
    # The raid6 speed test is most of the boot time. Without it raid6 (md, dm-raid, btrfs) crashes; raid5 works.
    [[ -n $raid6 ]] || guest_cmd+=(initcall_blacklist=raid6_select_algo)
    [[ ! -s $xstate ]] || guest_cmd=(env "LD_PRELOAD=$xstate" "${guest_cmd[@]}")
    for i in "${!disks[@]}"; do
        # d: plain data, never a copy-on-write file, whatever its first sector says. Flushes become fsync.
        guest_cmd+=("ubd${i}d=$run/disk$i")
    done
}
