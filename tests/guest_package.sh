#!/bin/bash
# The Debian package and scripts/install in a clean root: installed, upgraded, removed, purged, nothing left. lintian has
# no errors. The RPM spec builds. Boots nothing; needs root on the host.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
# shellcheck source=scripts/lib/apt.sh
. scripts/lib/apt.sh
# shellcheck source=scripts/lib/boot-image.sh
. scripts/lib/boot-image.sh

work=$(mktemp -d "${TMPDIR:-/tmp}/guest-package.XXXXXX")
trap 'rm -rf "$work"' EXIT
failures=0
ok() { echo "ok $1"; }
not_ok() { echo "not ok $1"; failures=$((failures + 1)); }
# check WHAT COMMAND...
check() {
    local what=$1 rc=0
    shift
    "$@" >"$work/out" 2>&1 || rc=$?
    if ((rc == 0)); then ok "$what"; else not_ok "$what"; tail -n 40 "$work/out"; fi
}

# Every path outside of what dpkg and the package tools themselves keep, with owner, mode and contents.
snapshot() {
    (cd "$root" && find . -xdev \( -path ./proc -o -path ./dev -o -path ./sys -o -path ./var/lib/dpkg -o -path ./var/cache \
        -o -path ./var/log -o -path ./tmp -o -path ./run -o -path ./boot \) -prune -o -printf '%p %M %U:%G %l\n' | sort)
}
same() { diff "$work/$1" "$work/$2"; }
dpkg_ok() { boot_chroot "$root" dpkg "$@"; }
# shellcheck disable=SC2016 # for dpkg-query
version_is() { [[ $(boot_chroot "$root" dpkg-query -W -f '${Version} ${db:Status-Status}' dm-remap) == "$1 installed" ]]; }

program=$(readlink -f "${DM_REMAP:-target/debug/dm-remap}")
apt_install lintian rpm fdisk >&2 || exit 127
new=$(scripts/package --program "$program" --output "$work/new.deb")
old=$(scripts/package --program "$program" --output "$work/old.deb" --version 0.0.9-1)
tar=$(boot_root target/boot)
root=$work/root
boot_unpack "$tar" "$root"
cp "$old" "$new" "$root/tmp/"

lints() {
    lintian --allow-root --fail-on error --tag-display-limit 0 "$new"
}
check 'lintian finds no error' lints

snapshot >"$work/before"
check 'the old version installs' dpkg_ok -i "/tmp/${old##*/}"
check 'it is installed' version_is 0.0.9-1
runs() { boot_chroot "$root" dm-remap --version && boot_chroot "$root" dm-remap-discover --help; }
check 'the program and its links run' runs
enabled() { [[ -L $root/etc/systemd/system/timers.target.wants/dm-remap-scan.timer ]]; }
check 'the scan timer is enabled' enabled
# What an administrator does, which an upgrade must leave alone.
mkdir -p "$root/etc/dm-remap" "$root/var/lib/dm-remap/backup"
echo '{}' >"$root/etc/dm-remap/config.yaml"
boot_chroot "$root" systemctl disable dm-remap-scan.timer >/dev/null 2>&1 || true
check 'it is upgraded' dpkg_ok -i "/tmp/${new##*/}"
check 'the new version is there' version_is "$(dpkg-deb -f "$new" Version)"
keeps() {
    [[ -e $root/etc/dm-remap/config.yaml && ! -e $root/etc/systemd/system/timers.target.wants/dm-remap-scan.timer ]]
}
check 'an upgrade keeps the configuration, and a timer that was turned off stays off' keeps
in_initramfs() {
    local version file
    version=$(boot_kernel "$root")
    boot_chroot "$root" mkinitramfs -o /tmp/initrd "$version" || return
    boot_chroot "$root" lsinitramfs /tmp/initrd >"$work/list" || return
    for file in usr/sbin/dm-remap usr/sbin/dm-remap-reassemble scripts/local-block/dm-remap etc/dm-remap/config.yaml; do
        grep -qx "$file" "$work/list" || { echo "no $file"; return 1; }
    done
    grep -q 'dm-mod.ko' "$work/list"
}
check 'the initramfs hook puts in what a root filesystem needs' in_initramfs
rm -rf "$root/usr/lib/modules"
check 'it is removed' dpkg_ok -r dm-remap
leaves() { [[ -e $root/etc/dm-remap/config.yaml && ! -e $root/usr/sbin/dm-remap ]]; }
check 'removing keeps the configuration' leaves
check 'it is purged' dpkg_ok -P dm-remap
snapshot >"$work/after"
check 'nothing is left' same before after

# scripts/install, for everyone else: the same files, and all of them go again.
stage=$work/stage
mkdir "$stage"
check 'scripts/install below DESTDIR' scripts/install --destdir "$stage" --prefix /usr/local --program "$program"
check 'its program runs' "$stage/usr/local/sbin/dm-remap-validate" --help
names_itself() { [[ -d $stage/etc && -d $stage/usr/local/lib ]] && ! grep -rn /usr/sbin/dm-remap "$stage/etc" "$stage/usr/local/lib"; }
check 'nothing in it names the program of the package' names_itself
check 'scripts/install --uninstall' scripts/install --destdir "$stage" --prefix /usr/local --uninstall
no_file() { ! find "$stage" ! -type d | grep .; }
check 'it leaves no file' no_file

# The RPM spec, around the program that is there. Fedora's own macros are not on Debian.
rpm_builds() {
    rpmbuild -bb --quiet --build-in-place --nodeps --define "program $program" \
        --define "_topdir $work/rpm" --define '_unitdir /usr/lib/systemd/system' --define 'debug_package %{nil}' \
        --define '_udevrulesdir /usr/lib/udev/rules.d' --define '_sharedstatedir /var/lib' \
        --define '_binary_payload w1.gzdio' packaging/rpm/dm-remap.spec || return
    rpm -qlp "$work"/rpm/RPMS/*/*.rpm >"$work/list"
    grep -qx /usr/sbin/dm-remap-discover "$work/list" && grep -qx /usr/share/man/man8/dm-remap.8 "$work/list"
}
check 'an RPM is built by the spec' rpm_builds
((failures == 0))
