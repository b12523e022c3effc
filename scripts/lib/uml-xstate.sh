# Lets user-mode Linux 6.1 run on processors that it does not know. Sourced by what starts it.
# shellcheck shell=bash

# uml_xstate FILE: compiles what has to be preloaded (see uml-xstate.c) to FILE, where this processor's registers are more than
# it has room for; else there is no FILE.
uml_xstate() {
    grep -qw amx_tile /proc/cpuinfo || return 0
    cc -shared -fPIC -O2 -o "$1" "$(dirname "${BASH_SOURCE[0]}")/uml-xstate.c"
}
