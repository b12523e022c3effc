# Installing Debian packages from several scripts at once. Sourced; needs bash.
# shellcheck shell=bash

# Prints those of the named packages that are not installed, one a line.
apt_missing() {
    local package status
    for package in "$@"; do
        status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) || status=
        [[ $status == installed ]] || printf '%s\n' "$package"
    done
}

# apt-get itself waits for dpkg's lock, but not for the lock on the package lists: hence our own lock on top.
apt_run() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

# True when apt has a version of the package to offer.
apt_offers() {
    local candidate
    candidate=$(apt-cache policy "$1" 2>/dev/null | awk '$1 == "Candidate:" { print $2 }')
    [[ -n $candidate && $candidate != "(none)" ]]
}

apt_update() {
    ((EUID == 0)) && apt_run update >/dev/null
}

# Refreshes the package lists when one of the named packages is unknown to them.
apt_refresh_for() {
    local package
    for package in "$@"; do
        apt_offers "$package" && continue
        apt_run update || echo "apt: the package lists could not be refreshed, trying with the old ones" >&2
        return 0
    done
}

# Installs the packages while the caller holds the lock; log is where apt's words go until something fails.
apt_install_locked() {
    local log=$1 attempt missing
    shift
    mapfile -t missing < <(apt_missing "$@") # another process may have installed them while we waited
    ((${#missing[@]})) || return 0
    {
        apt_refresh_for "${missing[@]}"
        for attempt in 1 2 3; do
            apt_run install -y --no-install-recommends "${missing[@]}" && return 0
            sleep $((attempt * 2))
            apt_run update || true # stale lists are the usual reason for a failed download
        done
    } >"$log" 2>&1
    return 1
}

# apt_install PACKAGE...: installs what is missing. Returns 127, naming the packages, when it cannot.
apt_install() {
    local missing log lock rc=0
    mapfile -t missing < <(apt_missing "$@")
    ((${#missing[@]})) || return 0
    if ! command -v apt-get >/dev/null; then
        echo "${0##*/}: these packages are missing, and there is no apt-get: ${missing[*]}" >&2
        return 127
    fi
    if ((EUID != 0)); then
        echo "${0##*/}: these packages are missing (run as root: apt-get install ${missing[*]})" >&2
        return 127
    fi
    echo "${0##*/}: installing ${missing[*]}" >&2
    log=$(mktemp)
    exec {lock}>"${TMPDIR:-/tmp}/dm-remap-apt.lock"
    flock "$lock"
    apt_install_locked "$log" "${missing[@]}" || rc=127
    exec {lock}>&-
    if ((rc)); then
        tail -n 20 "$log" >&2
        echo "${0##*/}: apt-get could not install: ${missing[*]}" >&2
    fi
    rm -f "$log"
    return "$rc"
}
