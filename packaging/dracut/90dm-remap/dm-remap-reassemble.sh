#!/bin/sh
# Runs whenever udev has settled and the root filesystem's device is not there yet.
/usr/sbin/dm-remap-reassemble --boot --quiet </dev/null || true
