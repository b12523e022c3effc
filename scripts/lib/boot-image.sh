# A whole Debian for tests: systemd as init, udev, LVM, udisks. Sourced; needs bash, scripts/lib/apt.sh, and root.
# shellcheck shell=bash source-path=SCRIPTDIR

# shellcheck source=uml-xstate.sh
. "$(dirname "${BASH_SOURCE[0]}")/uml-xstate.sh"

# What the tests of booting need, and what must not be confused by a setup.
readonly boot_packages=systemd-sysv,udev,dbus,dmsetup,e2fsprogs,kmod,lvm2,udisks2,initramfs-tools,busybox,cron
# Modules of user-mode Linux that a test may want. All of them would be five times as much.
readonly boot_modules=(block crypto lib drivers/block drivers/md drivers/scsi fs/autofs fs/overlayfs fs/nls fs/fat)

# boot_root DIR: prints the path of a tar of the root filesystem, kept in DIR until what is in it changes.
boot_root() {
    local dir=$1 key lock
    apt_install mmdebstrap >&2 || return 127
    key=$(printf '%s\n' "$boot_packages" minbase 1 | sha256sum | cut -c1-12)
    mkdir -p "$dir"
    exec {lock}>"$dir/lock"
    flock "$lock" # two suites at once make it once
    if [[ ! -e $dir/root-$key.tar ]]; then
        rm -f "$dir"/root-*.tar
        mmdebstrap --quiet --mode=root --variant=minbase --include="$boot_packages" \
            --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
            --aptopt='Acquire::Retries "3"' --dpkgopt='path-exclude=/usr/share/locale/*' \
            bookworm "$dir/new.tar" >&2 || return 125
        mv "$dir/new.tar" "$dir/root-$key.tar"
    fi
    exec {lock}>&-
    printf '%s\n' "$dir/root-$key.tar"
}

# boot_unpack TAR ROOT: the root filesystem as a directory.
boot_unpack() {
    mkdir -p "$2"
    tar -C "$2" --numeric-owner -xpf "$1"
}

# boot_kernel ROOT: puts the modules of user-mode Linux into it, and prints the kernel's version.
boot_kernel() {
    local root=$1 version part from to
    version=$(cd /usr/lib/uml/modules && printf '%s\n' * | sort -V | tail -n 1)
    from=/usr/lib/uml/modules/$version to=$root/usr/lib/modules/$version
    for part in "${boot_modules[@]}"; do
        mkdir -p "$to/kernel/${part%/*}"
        cp -a "$from/kernel/$part" "$to/kernel/$part"
    done
    cp "$from"/modules.{order,builtin*} "$to/"
    depmod -b "$root" "$version"
    mkdir -p "$root/boot"
    printf 'CONFIG_RD_%s=y\n' GZIP ZSTD >"$root/boot/config-$version" # mkinitramfs asks how it may compress
    printf '%s\n' "$version"
}

# boot_chroot ROOT COMMAND...: in a mount namespace of its own, so that nothing stays mounted.
# shellcheck disable=SC2016 # for the inner shell
boot_chroot() {
    unshare --mount sh -c 'mount -t proc proc "$1/proc" && mount --bind /dev "$1/dev" && root=$1 && shift &&
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
            HOME=/root chroot "$root" "$@"' sh "$@" </dev/null
}

# boot_steps ROOT: a service that runs the script "step" of the shared directory once the machine is up, and then
# powers off. The first argument is where the host's files are in the guest.
boot_steps() {
    local root=$1
    mkdir -p "$root/host"
    : >"$root/etc/machine-id"
    echo boottest >"$root/etc/hostname"
    rm -f "$root"/etc/systemd/system/{timers.target.wants,getty.target.wants}/*
    ln -sf /dev/null "$root/etc/systemd/system/e2scrub_reap.service"
    # User-mode Linux has 600 terminals, most of a boot's time if udev is told of each.
    mkdir -p "$root/etc/systemd/system/systemd-udev-trigger.service.d"
    printf '[Service]\nExecStart=\nExecStart=-udevadm trigger --type=all --action=add --subsystem-nomatch=tty %s\n' \
        --prioritized-subsystem=module,block >"$root/etc/systemd/system/systemd-udev-trigger.service.d/uml.conf"
    cat >"$root/etc/systemd/system/boot-step.service" <<'UNIT'
[Unit]
Description=The step of the boot test
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/usr/local/sbin/boot-step
UNIT
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/usr/local/sbin"
    ln -sf ../boot-step.service "$root/etc/systemd/system/multi-user.target.wants/boot-step.service"
    cat >"$root/usr/local/sbin/boot-step" <<'STEP'
#!/bin/bash
# hostfs options stand on the kernel's command line: the shared directory is the host's.
share=$(sed -n 's/.*boot_share=\([^ ]*\).*/\1/p' /proc/cmdline)
mount -t hostfs -o "sync,$share" none /host
bash /host/step >/host/out 2>&1 </dev/null
echo $? >/host/rc
umount /host
systemctl --no-block poweroff
STEP
    chmod 755 "$root/usr/local/sbin/boot-step"
}

# boot_image ROOT IMAGE SIZE: a disk with one partition that has a UUID, and in it the root filesystem.
boot_image() {
    local root=$1 image=$2 size=$3
    rm -f "$image"
    truncate -s "$size" "$image"
    printf 'label: gpt\nstart=2048, name=root\n' | sfdisk -q "$image"
    # Without a journal, as nothing here loses power; the first mebibyte and the second table are the partition table's.
    mke2fs -q -F -t ext4 -b 4096 -O ^has_journal -E offset=1048576,lazy_itable_init=1 -d "$root" "$image" \
        "$((($(stat -c %s "$image") - 2 * 1048576) / 1024))k"
}

# boot_uml WORK LIMIT DISK... [-- KERNEL-ARGUMENT...]: boots, with WORK/share as /host. The console goes to WORK/console.
# Ends with what the step ended with; 124 when the limit was reached.
boot_uml() {
    local work=$1 limit=$2 disks=() n=0 rc=0
    shift 2
    while (($#)) && [[ $1 != -- ]]; do disks+=("ubd$((n++))d=$1"); shift; done
    (($# == 0)) || shift
    rm -f "$work/share/rc" "$work/share/out"
    mkdir -p "$work/uml"
    uml_xstate "$work/xstate.so"
    local kernel=(linux.uml)
    [[ ! -s $work/xstate.so ]] || kernel=(env "LD_PRELOAD=$work/xstate.so" linux.uml)
    # A pid namespace: nothing of the guest outlives this.
    timeout --kill-after=5 "$limit" unshare --pid --fork --kill-child=KILL --mount-proc \
        "${kernel[@]}" mem=384M "${disks[@]}" con=null con0=null,fd:1 ssl=null "umid=boot" "uml_dir=$work/uml/" panic=-1 \
        initcall_blacklist=raid6_select_algo zswap.enabled=0 rw "boot_share=$work/share" "$@" \
        </dev/null >"$work/console" 2>&1 || rc=$?
    ((rc != 124)) || return 124
    [[ -s $work/share/rc ]] || return 125
    return "$(<"$work/share/rc")"
}
