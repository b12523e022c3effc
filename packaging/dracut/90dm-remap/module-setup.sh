#!/bin/bash
# dracut module: a root filesystem on a dm-remap setup.

# Included when asked for, or when the root filesystem of this host lies on a setup.
check() {
    require_binaries /usr/sbin/dm-remap || return 1
    # shellcheck disable=SC2154 # dracut's own variables
    [[ $hostonly || $mount_needs ]] || return 0
    local device uuid
    # shellcheck disable=SC2154
    for device in "${!host_fs_types[@]}"; do
        uuid=$(cat "/sys/class/block/$(basename "$(readlink -f "$device")")/dm/uuid" 2>/dev/null) || continue
        [[ $uuid != DMREMAP-* ]] || return 0
    done
    return 255
}

depends() { echo dm; }

installkernel() { instmods dm_mod =drivers/md/dm-dust =drivers/md/dm-flakey; }

install() {
    local file
    inst_multiple /usr/sbin/dm-remap /usr/sbin/dm-remap-reassemble
    for file in /usr/lib/udev/rules.d/*dm-remap*.rules; do inst_rules "${file##*/}"; done
    while read -r file; do inst_simple "$file"; done < <(find /etc/dm-remap -type f 2>/dev/null)
    # shellcheck disable=SC2154
    inst_hook initqueue/settled 90 "$moddir/dm-remap-reassemble.sh"
    inst_hook initqueue/timeout 90 "$moddir/dm-remap-last-resort.sh"
}
