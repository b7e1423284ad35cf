#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# setup.sh [KREL...] [debug]: make what is cached, for the stock kernels named
# (else all) and, if "debug" is named (or nothing is), the debug lane's kernel.
. "$(dirname "$0")/lib.sh"

[ $# -gt 0 ] || set -- "${KERNELS[@]}" debug

"$VM/host-packages.sh"
"$VM/cache.sh" buildenv >/dev/null

# The guest's image waits for the network and the disk mostly; kernels compute.
"$VM/cache.sh" rootfs >/dev/null &
rootfs=$!
for k in "$@"; do
	boot=$("$VM/cache.sh" boot "$(krel_full "$k")")
done
wait $rootfs || die "the guest's image could not be made"
"$VM/kvm.sh" "$boot" >/dev/null
say "setup: all is there ($CACHE)"
