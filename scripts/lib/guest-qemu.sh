# Debian's stock kernel under QEMU's software emulation as the guest kernel. Sourced by scripts/guest.
# shellcheck shell=bash disable=SC2154,SC2034 # variables are shared with scripts/guest

# The kernel is unpacked, not installed, into a cache; the newest one there is used until it is deleted.
readonly qemu_cache=${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/dm-remap-guest
qemu_kernel='' # the unpacked kernel: boot/vmlinuz-VERSION, lib/modules/VERSION, initramfs

# What it takes to reach the host's files. Everything else is loaded by the guest itself.
readonly qemu_boot_modules=(virtio_pci virtio_blk 9pnet_virtio 9p overlay)

qemu_prepare() {
    apt_install qemu-system-x86 busybox-static cpio gzip xz-utils zstd kmod dmsetup util-linux || exit 127
    ((${#disks[@]} <= 16)) || die 2 "at most 16 disks"
    local lock
    mkdir -p "$qemu_cache" || die 125 "cannot make the cache directory $qemu_cache"
    exec {lock}>"$qemu_cache/lock"
    flock "$lock" # two guests at once unpack the kernel once
    qemu_find_kernel || { qemu_fetch_kernel && qemu_find_kernel; } || die 125 "no kernel for qemu"
    [[ $qemu_kernel/initramfs -nt $lib/guest-qemu.sh ]] || qemu_make_initramfs
    exec {lock}>&-
    moddir=$qemu_kernel/lib/modules
}

qemu_find_kernel() {
    qemu_kernel=$(find "$qemu_cache" -mindepth 1 -maxdepth 1 -name 'linux-image-*' -type d | sort -V | tail -n 1)
    [[ -n $qemu_kernel ]]
}

# The newest 6.12 if apt knows one (bookworm-backports or trixie), else the newest of any version.
qemu_choose_package() {
    local all name
    all=$(apt-cache search --names-only '^linux-image-[0-9].*-amd64(-unsigned)?$' | cut -d' ' -f1 |
        grep -E '^linux-image-[0-9]+\.[0-9]+\.[0-9]+[^a-z]*(\+deb[0-9]+|\+bpo[^-]*|-[0-9]+)?-amd64(-unsigned)?$' |
        sort -V)
    for name in '-6\.12[.-].*-amd64$' '-6\.12[.-].*-unsigned$' 'amd64$' 'unsigned$'; do
        grep -E -- "$name" <<<"$all" | tail -n 1 | grep . && return 0
    done
    return 1
}

qemu_fetch_kernel() {
    local package dir
    package=$(qemu_choose_package) || { apt_update && package=$(qemu_choose_package); } ||
        die 127 "apt knows no linux-image-*-amd64 package"
    [[ $package == linux-image-6.12* ]] ||
        echo "guest: no linux-image-6.12 in apt's sources (bookworm-backports?), using $package" >&2
    echo "guest: unpacking $package into $qemu_cache" >&2
    dir=$(mktemp -d "$qemu_cache/new.XXXXXX")
    (
        cd "$dir"
        apt-get -qq -o APT::Sandbox::User=root -o Acquire::Retries=3 download "$package" ||
            { apt_update && apt-get -qq -o APT::Sandbox::User=root download "$package"; }
        dpkg -x ./*.deb root
        rm ./*.deb
        [[ -d root/lib/modules ]] || { mkdir -p root/lib && mv root/usr/lib/modules root/lib/; }
        depmod -b root "$(ls root/lib/modules)"
    ) || { rm -rf "$dir"; die 125 "cannot fetch and unpack $package"; }
    mv "$dir/root" "$qemu_cache/$package"
    rmdir "$dir"
}

# Loads the modules, mounts the host's root, hands over to lib/guest-init on it.
qemu_initramfs_init() {
    cat <<'TEXT'
#!/bin/busybox sh
for module in /modules/*; do /bin/busybox insmod "$module"; done
/bin/busybox mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose,access=any root /root
exec /bin/busybox switch_root /root "$guest_init"
TEXT
}

qemu_make_initramfs() {
    local tree version module file n=100
    version=$(ls "$qemu_kernel/lib/modules")
    tree=$(mktemp -d "$qemu_cache/initramfs.XXXXXX")
    mkdir "$tree"/{bin,modules,root}
    cp "$(command -v busybox)" "$tree/bin/busybox"
    qemu_initramfs_init >"$tree/init"
    chmod 755 "$tree/init"
    # modprobe names each module with what it needs, in loading order
    while read -r file; do
        module=${file##*/}
        module=${module%%.*}
        compgen -G "$tree/modules/*-$module.ko" >/dev/null && continue
        case $file in
        *.xz) xz -dc "$file" ;;
        *.zst) zstd -qdc "$file" ;;
        *) cat "$file" ;;
        esac >"$tree/modules/$((n++))-$module.ko"
    done < <(modprobe -d "$qemu_kernel" -S "$version" -a --show-depends "${qemu_boot_modules[@]}" |
        awk '$1 == "insmod" { print $2 }')
    (cd "$tree" && find . | cpio --quiet -o -H newc -R 0:0) >"$qemu_kernel/initramfs.new"
    mv "$qemu_kernel/initramfs.new" "$qemu_kernel/initramfs"
    rm -rf "$tree"
}

# The name of disk number $1 in the guest.
qemu_disk_name() {
    local letters=abcdefghijklmnop
    printf '/dev/vd%s' "${letters:$1:1}"
}

# qemu_fstab NAME DIR AT: mounts a host directory, writable. No cache: the host sees each write at once.
qemu_fstab() {
    fstab_line "$1" "$3" 9p "X-mount.mkdir,trans=virtio,version=9p2000.L,msize=512000,cache=none,access=any"
}

# qemu_export NAME DIR [OPTIONS]: a host directory for the guest. qemu's options double a comma to mean it.
qemu_export() {
    guest_cmd+=(-fsdev "local,id=$1,path=${2//,/,,},security_model=none,multidevs=remap${3:-}"
        -device "virtio-9p-pci,fsdev=$1,mount_tag=$1")
}

qemu_command() {
    local i version
    version=$(ls "$qemu_kernel/lib/modules")
    # shellcheck disable=SC2054 # qemu's own commas
    guest_cmd=(qemu-system-x86_64 -nodefaults -no-user-config -display none -monitor none -serial stdio
        -machine pc -accel tcg,thread=multi -cpu max -smp "${smp:-2}" -m "$mem" -no-reboot
        -kernel "$qemu_kernel/boot/vmlinuz-$version" -initrd "$qemu_kernel/initramfs"
        -append "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr no_timer_check
            random.trust_cpu=on guest_init=$run/init")
    qemu_export root / ,readonly=on
    qemu_export run "$run"
    for i in "${!shares[@]}"; do qemu_export "share$i" "${shares[i]}"; done
    for i in "${!disks[@]}"; do qemu_disk "$i" "${disk_kinds[i]:-virtio}"; done
}

# qemu_disk NUMBER KIND
qemu_disk() {
    local drive="file=$run/disk$1,format=raw,cache=writeback,discard=unmap${disk_opts[$1]:-}"
    [[ $2 != virtio ]] || { guest_cmd+=(-drive "$drive,if=virtio"); return; }
    guest_cmd+=(-drive "$drive,if=none,id=drive$1")
    # shellcheck disable=SC2054 # qemu's own commas
    case $2 in
    ata) guest_cmd+=(-device "ahci,id=ahci$1" -device "ide-hd,bus=ahci$1.0,drive=drive$1,serial=ATA$1") ;;
    nvme) guest_cmd+=(-device "nvme,drive=drive$1,serial=NVME$1") ;;
    scsi) guest_cmd+=(-device "virtio-scsi-pci,id=scsi$1" -device "scsi-hd,bus=scsi$1.0,drive=drive$1,serial=SCSI$1") ;;
    esac
}
