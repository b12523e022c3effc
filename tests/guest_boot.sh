#!/bin/bash
# A Debian with systemd and udev, dm-remap installed from its package, booted several times on the same disks:
#
# 1. create: a setup of two spares, ext4 on it, a line in fstab. Nothing offers main or a spare for mounting.
# 2. again: it is mounted before anybody asks. A scan from the timer finds a bad sector, and moves it.
# 3. without a spare, as configured at first: refused, and the boot goes on when the timer has run out.
# 4. without a spare, degraded permitted: mounted.
# 5. the root filesystem itself on a setup, through the initramfs, with sectors of it on the spare. More of them move while
#    programs are read from there, and there is little memory.
#
# After each the machine goes down by itself, in time, with nothing left for the kernel to detach. Needs root on the host.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
# shellcheck source=scripts/lib/apt.sh
. scripts/lib/apt.sh
# shellcheck source=scripts/lib/boot-image.sh
. scripts/lib/boot-image.sh

program=$(readlink -f "${DM_REMAP:-target/debug/dm-remap}")
apt_install user-mode-linux kmod fdisk e2fsprogs >&2 || exit 127
work=$(mktemp -d "${TMPDIR:-/tmp}/guest-boot.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/share"
failures=0

# --- the machine ---------------------------------------------------------------------------------------------------

root=$work/root image=$work/image
deb=$(scripts/package --program "$program" --output "$work/dm-remap.deb")
boot_unpack "$(boot_root target/boot)" "$root"
version=$(boot_kernel "$root")
boot_steps "$root"
cp "$deb" "$root/tmp/dm-remap.deb"
boot_chroot "$root" dpkg -i /tmp/dm-remap.deb >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log"; exit 1; }
boot_chroot "$root" mkinitramfs -o /tmp/initrd "$version" 2>"$work/initramfs.log" || { cat "$work/initramfs.log"; exit 1; }
mv "$root/tmp/initrd" "$work/initrd"
mv "$root/tmp/dm-remap.deb" "$work/share/"
rm "$deb"
sed -i 's/^update_initramfs=.*/update_initramfs=no/' "$root/etc/initramfs-tools/update-initramfs.conf" # slow in the guest
boot_image "$root" "$image" 640M
cp --sparse=always --reflink=auto "$image" "$work/system" # for the last boot
rm -rf "$root"

# Main is a partition: its UUID is what it is known by.
truncate -s 64M "$work/main"
truncate -s 16M "$work/spare0" "$work/spare1" "$work/spare2"
printf 'label: gpt\nstart=2048\n' | sfdisk -q "$work/main"

# --- a boot --------------------------------------------------------------------------------------------------------

# What every step begins with.
cat >"$work/lib" <<'LIB'
set -u
ok() { echo "ok $1"; }
not_ok() { echo "not ok $1"; }
# check WHAT COMMAND...: what it prints is shown when it fails
check() {
    local what=$1 out
    shift
    if out=$("$@" 2>&1); then ok "$what"; else not_ok "$what"; echo "$out" | tail -n 30; fi
}
udevadm settle --timeout=30
LIB

# boot NAME LIMIT DISK... [-- KERNEL-ARGUMENT...] <STEP: runs the step, and judges how the machine went down.
boot() {
    local name=$1 begin=$EPOCHSECONDS rc=0
    { cat "$work/lib"; cat; } >"$work/share/step"
    : >"$work/$name.out"
    boot_uml "$work" "${@:2}" || rc=$?
    [[ -z ${TEST_DIR:-} ]] || cp "$work/console" "$TEST_DIR/$name.console"
    [[ ! -e $work/share/out ]] || sed "s/^\(not ok\|ok\) /\1 $name: /" "$work/share/out" | tee "$work/$name.out"
    ! grep -q '^not ok' "$work/$name.out" || failures=$((failures + 1))
    if ((rc == 0)) && grep -q 'reboot: System halted' "$work/console"; then
        echo "ok $name: the machine went up and down ($((EPOCHSECONDS - begin)) s)"
    else
        echo "not ok $name: the machine went up and down (exit code $rc)"
        tail -n 60 "$work/console"
        failures=$((failures + 1))
    fi
    if [[ $name != root ]]; then
        if grep -aE 'Detaching DM [0-9]|Could not detach|Stopping timed out|A stop job' "$work/console" ||
            ! grep -aq 'All DM devices detached' "$work/console"; then
            echo "not ok $name: no device was left at the end"
            failures=$((failures + 1))
        else
            echo "ok $name: no device was left at the end"
        fi
    fi
}

# --- the steps -----------------------------------------------------------------------------------------------------

disks=("$image" "$work/main" "$work/spare0" "$work/spare1")

boot create 200 "${disks[@]}" -- root=/dev/ubda1 <<'STEP'
check 'systemd found no fault in a unit' systemd-analyze verify --man=no dm-remap-activate.service dm-remap-scan.timer \
    dm-remap-watch.service
mkfs.ext4 -q -L marked /dev/ubdb1
udevadm trigger --settle /dev/ubdb1
check 'main is offered before' test -e /dev/disk/by-label/marked
check 'create' dm-remap create data --main /dev/ubdb1 --spare /dev/ubdc /dev/ubdd
udevadm settle
mkdir -p /data
echo '/dev/mapper/data /data ext4 nofail,x-systemd.device-timeout=120s 0 2' >>/etc/fstab
systemctl daemon-reload
check 'mount -a' mount -a
head -c 3000000 /dev/urandom >/data/file
sha256sum /data/file >/data/sum
sync
# Part of the file moves to a spare, and its place on main gets other contents: only the setup has the file now.
sector=$(debugfs -R 'blocks /file' /dev/mapper/data 2>/dev/null | awk '{ print $20 * 2 }')
[ "$(stat -f -c %S /data)" != 4096 ] || sector=$((sector * 4))
check 'remap' dm-remap remap data "$sector+64"
dd if=/dev/zero of=/dev/ubdb1 bs=512 seek="$sector" count=64 oflag=direct conv=notrunc status=none

udevadm trigger --settle --subsystem-match=block
type_of() { udevadm info --query=property --name="$1" | sed -n 's/^ID_FS_TYPE=//p'; }
check 'a spare is known as one' [ "$(type_of /dev/ubdc)" = dm_remap_spare ]
offered() { udisksctl info -b "$1" | grep -E 'HintIgnore: +true'; }
check 'udisks ignores a spare' offered /dev/ubdc
check 'udisks ignores main' offered /dev/ubdb1
label() { [ "$(readlink -f /dev/disk/by-label/marked)" = "$(readlink -f /dev/mapper/data)" ]; }
check 'the label leads to the setup' label
lsblk -rno NAME,FSTYPE >/tmp/lsblk
hidden() { ! grep -E '^ubd[bcd]1? ext4' /tmp/lsblk; }
check 'lsblk shows a filesystem on the setup alone' hidden
pv() { pvs -a --noheadings -o pv_name 2>&1; ! pvs -a --noheadings -o pv_name 2>/dev/null | grep -E 'ubd[cd]|ubdb1'; }
check 'LVM offers neither main nor a spare' pv
finds() { [ "$(blkid -L marked)" = /dev/mapper/data ] && [ "$(findfs LABEL=marked)" = /dev/mapper/data ] && ! blkid /dev/ubdc; }
check 'blkid leads to the setup, and sees nothing on a spare' finds
refuses() { ! mount /dev/ubdb1 /mnt; }
check 'main cannot be mounted' refuses
systemctl is-system-running >/tmp/state || true
check 'no unit has failed' [ -z "$(systemctl --failed --plain --no-legend)" ]
STEP

boot again 200 "${disks[@]}" -- root=/dev/ubda1 <<'STEP'
check 'mounted' findmnt /data
check 'from the setup' [ "$(findmnt -no SOURCE /data)" = /dev/mapper/data ]
whole() { sha256sum -c /data/sum; }
check 'every byte is as it was' whole
before() {
    journalctl -b -o short-monotonic -u dm-remap-activate.service -u data.mount --no-pager
    [ "$(systemctl show -P ActiveEnterTimestampMonotonic dm-remap-activate.service)" -lt \
        "$(systemctl show -P ActiveEnterTimestampMonotonic data.mount)" ]
}
check 'it came up before the filesystems' before
clean() { dm-remap status data; ! journalctl -b --no-pager | grep 'not put down cleanly'; }
check 'it was put down cleanly' clean
check 'no unit has failed' [ -z "$(systemctl --failed --plain --no-legend)" ]
check 'links by name' [ "$(readlink -f /dev/disk/by-id/dm-remap-name-data)" = "$(readlink -f /dev/mapper/data)" ]

# A disk with a bad sector, and the timer.
modprobe sd_mod
modprobe scsi_debug dev_size_mb=16 opts=2 medium_error_start=9000 medium_error_count=1 delay=0
udevadm settle
truncate -s 16M /run/spare.img
check 'a second setup' dm-remap create weak --main /dev/sda --spare "$(losetup -f --show /run/spare.img)"
mkdir -p /run/systemd/system/dm-remap-scan.timer.d /etc/dm-remap
cat >/etc/dm-remap/config.yaml <<'CONFIG'
defaults:
  scan:
    interval: 1s
  alerts:
    program: /usr/local/sbin/tell
    mail: root
  metrics:
    textfile: /var/lib/metrics
CONFIG
mkdir -p /var/lib/metrics
printf '#!/bin/sh\necho "$DM_REMAP_SETUP $DM_REMAP_EVENTS" >>/var/log/told\n' >/usr/local/sbin/tell
printf '#!/bin/sh\n{ echo "From dm-remap"; cat; echo; } >>/var/mail/root\n' >/usr/sbin/sendmail
chmod 755 /usr/local/sbin/tell /usr/sbin/sendmail
printf '[Timer]\nOnCalendar=\nOnActiveSec=1\nAccuracySec=100ms\nRandomizedDelaySec=0\n' \
    >/run/systemd/system/dm-remap-scan.timer.d/test.conf
systemctl daemon-reload
systemctl restart dm-remap-scan.timer
scanned() {
    local n
    for n in $(seq 100); do
        [ "$(systemctl show -P ExecMainExitTimestampMonotonic dm-remap-scan.service)" = 0 ] || break
        sleep 0.3
    done
    systemctl status --no-pager dm-remap-scan.service
    dm-remap map weak
    dm-remap map weak | grep -q held
}
check 'the scan from the timer moves the bad sector' scanned
sleep 1 # the messages are sent when the setup is free again
told() { cat /var/log/told; [ "$(grep -c '^weak ' /var/log/told)" = 1 ] && grep -q '^weak .*bad' /var/log/told; }
check 'the program is told once' told
mailed() { cat /var/mail/root; [ "$(grep -c '^Subject:.*weak' /var/mail/root)" = 1 ]; }
check 'mail comes once' mailed
in_journal() { [ "$(journalctl -b -o cat DM_REMAP_SETUP=weak --no-pager | grep -c .)" -ge 1 ]; }
check 'the journal has it, to be found by its field' in_journal
metrics() { cat /var/lib/metrics/*.prom; grep -Eq '^dm_remap_setup_held_[a-z]+\{setup="weak"[^}]*\} [1-9]' /var/lib/metrics/*.prom; }
check 'the metrics have changed' metrics
reported() {
    dm-remap report --html /run/report.html
    [ $? = 0 ] && grep -q '<h2[^>]*>weak</h2>' /run/report.html && grep -q 'DMR-08' /run/report.html &&
        grep -q 'href="#l"' /run/report.html && grep -q 'sectors on spares, 0 at first and 8 now' /run/report.html
}
check 'the report shows it, and how it grew' reported
exposed() { systemd-analyze security --no-pager --threshold=45 dm-remap-scan.service dm-remap-watch.service; }
check 'systemd finds the services well confined' exposed
# For the boots to come: what is missing is waited for so long.
mkdir -p /etc/systemd/system/dm-remap-last-resort@.timer.d
printf '[Timer]\nOnActiveSec=\nOnActiveSec=15\n' >/etc/systemd/system/dm-remap-last-resort@.timer.d/test.conf
STEP

missing=("$image" "$work/main" "$work/spare0" "$work/spare2")

boot pulled 240 "${missing[@]}" -- root=/dev/ubda1 <<'STEP'
refused() { ! findmnt /data && ! [ -e /dev/mapper/data ]; }
check 'without a spare it is refused' refused
quick() {
    systemd-analyze
    [ "$(systemctl show -P ActiveEnterTimestampMonotonic multi-user.target)" -lt 100000000 ]
}
check 'the boot waits no longer than its timer' quick
waits() {
    local n
    for n in $(seq 120); do
        journalctl -b --no-pager | grep -q 'dm-remap-last-resort@.*service: .*\(Failed\|exited\)' && return 0
        sleep 0.5
    done
    journalctl -b --no-pager | grep -i remap
    return 1
}
check 'the last resort ran' waits
refused_still() { ! [ -e /dev/mapper/data ]; }
check 'it is still refused' refused_still
suspended() { ! dmsetup info -c --noheadings -o suspended | grep -i '^suspended'; }
check 'nothing is suspended' suspended
hidden() {
    ls -l /dev/disk/by-label /dev/disk/by-uuid
    ! [ -e /dev/disk/by-label/marked ] && ! lsblk -rno NAME,FSTYPE | grep 'ubdb1 ext4' &&
        udisksctl info -b /dev/ubdb1 | grep -E 'HintIgnore: +true'
}
check 'main is hidden while the setup is down, too' hidden
printf 'defaults:\n  boot:\n    incomplete: degraded\n' >/etc/dm-remap/config.yaml
check 'the configuration permits it from now on' dm-remap-validate --config /etc/dm-remap/config.yaml
# The next boot cannot go on without it.
sed -i 's/nofail,x-systemd.device-timeout=120s/x-systemd.device-timeout=200s/' /etc/fstab
STEP

boot degraded 300 "${missing[@]}" -- root=/dev/ubda1 <<'STEP'
up() { journalctl -b --no-pager | grep -i remap; findmnt /data; }
check 'without a spare it comes up degraded' up
whole() { sha256sum -c /data/sum; }
check 'every byte is as it was' whole
says() { dm-remap status data | grep -i -E 'missing|degraded'; }
check 'status says so' says
quick() {
    systemctl show -P ActiveEnterTimestampMonotonic local-fs.target
    [ "$(systemctl show -P ActiveEnterTimestampMonotonic local-fs.target)" -lt 120000000 ]
}
check 'the boot waited for the timer, and no longer' quick

# The package comes and goes on a machine whose setup is in use.
again() {
    dpkg -i /host/dm-remap.deb && findmnt /data && systemctl is-active dm-remap-activate.service dm-remap-scan.timer
}
check 'installed anew, the setup stays up' again
removed() {
    dpkg -r dm-remap >/tmp/removed 2>&1
    cat /tmp/removed
    grep -q 'data' /tmp/removed && findmnt /data && sha256sum -c /data/sum && ! systemctl is-active dm-remap-scan.timer
}
check 'removed, it stays up until the machine goes down' removed
STEP

# The root filesystem under a setup of its own; what moves is overwritten on main.
cat >"$work/share/root" <<'MAKE'
set -euo pipefail
program=$1 main=${GUEST_DISK0}1
"$program" create system --main "$main" --spare "$GUEST_DISK1" >&2
block=$(debugfs -R 'blocks /usr/sbin/dm-remap' /dev/mapper/system 2>/dev/null | awk '{ print $30 }')
"$program" remap system "$((block * 8))+8" >&2
dd if=/dev/urandom of="$main" bs=4096 seek="$block" count=1 oflag=direct conv=notrunc status=none
"$program" deactivate system >&2
MAKE
truncate -s 16M "$work/spare-root"
scripts/guest --disk "$work/system" --disk "$work/spare-root" --share "$work" -- \
    bash "$work/share/root" "$program" || { echo "not ok root: the setup was made"; exit 1; }

boot root 200 "$work/system" "$work/spare-root" -- "initrd=$work/initrd" root=/dev/mapper/system <<'STEP'
check 'the root filesystem is on the setup' [ "$(findmnt -no SOURCE /)" = /dev/mapper/system ]
check 'the program there runs' dm-remap --version
moved() { dm-remap status system; dm-remap map system | grep -E '^ *[0-9]+ +8 '; }
check 'with a part of it on the spare' moved
check 'no unit has failed' [ -z "$(systemctl --failed --plain --no-legend)" ]

# Its sectors move there and back, those of dm-remap among them, while there is hardly memory to keep what was read of it.
find /usr/bin /usr/sbin /usr/lib/x86_64-linux-gnu -xdev -type f -size -2M -print0 | sort -z 2>/dev/null | head -z -n 400 | xargs -0 sha256sum >/run/sums
mkdir /run/hog
mount -t tmpfs -o size=1G hog /run/hog
head -c "$(($(awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo) - 40))M" /dev/zero >/run/hog/file
part=$(($(blockdev --getsz /dev/mapper/system) / 12 / 8))
spliced() {
    local turn n ranges
    dm-remap restore system --all || return
    RANDOM=7
    for turn in 1 2 3 4; do
        ranges=()
        for n in $(seq 0 11); do ranges+=("$(((n * part + RANDOM * 3 % (part - 8)) * 8))+$((8 + RANDOM % 6 * 8))"); done
        dm-remap layout system "$([ $((turn % 2)) = 1 ] && echo switched || echo flat)" || return
        dm-remap remap system "${ranges[@]}" || return
        [ "$(dm-remap map system --json | grep -c '"slot"')" -ge 12 ] || return
        echo 3 >/proc/sys/vm/drop_caches
        dm-remap restore system --all || return
    done
}
{ while ! [ -e /run/enough ]; do sha256sum -c --quiet /run/sums || echo wrong; done; } >/run/wrong 2>&1 &
check 'its sectors move there and back while memory is short' spliced
touch /run/enough
wait
check 'what was read of it meanwhile was right' [ ! -s /run/wrong ]
echo 3 >/proc/sys/vm/drop_caches
check 'and is right now' sha256sum -c --quiet /run/sums
whole() { dm-remap status system && ! dmsetup info -c --noheadings -o suspended | grep -i '^suspended'; }
check 'the setup is healthy' whole
head -n 3 /proc/meminfo
umount /run/hog
STEP

((failures == 0))
