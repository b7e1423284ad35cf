#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# cache.sh NAME [KREL]: print the folder of a cached thing, making it first if
# it is not there. An entry's key covers the script that makes it, the lists
# that the script reads, and the keys of what it is made from.
. "$(dirname "$0")/lib.sh"

# key_of NAME [KREL]
key_of() {
	case $1 in
	buildenv) hash_of "$VM/make/buildenv.sh" "$VM/config/buildenv-packages" ;;
	debs) echo "$2-$({ cat "$VM/make/debs.sh"; } | hash_of -)" ;;
	source) echo "$2-$({ key_of debs "$2"; cat "$VM/make/source.sh"; } | hash_of -)" ;;
	kernel) echo "$2-$({ key_of debs "$2"; key_of buildenv; cat "$VM/make/kernel.sh"; } | hash_of -)" ;;
	peers) echo "$2-$({ key_of kernel "$2"; cat "$VM/make/peers.sh"; } | hash_of -)" ;;
	boot)
		if [ "$2" = debug ]; then
			echo "$2-$({ key_of debug; cat "$VM"/make/{boot.sh,pick-modules.py,initramfs-init} "$VM/config/guest-modules"; } | hash_of -)"
		else
			echo "$2-$({ key_of peers "$2"; cat "$VM"/make/{boot.sh,pick-modules.py,initramfs-init} "$VM/config/guest-modules"; } | hash_of -)"
		fi
		;;
	debug) echo "${KERNELS[0]}-$({ key_of buildenv; cat "$VM/make/debug.sh" "$VM"/config/debug*.config; } | hash_of -)" ;;
	rootfs) hash_of "$VM/make/rootfs.sh" "$VM/config/guest-packages" ;;
	*) die "cache.sh: no such thing: $1" ;;
	esac
}

name=$1
krel=${2:-}
cached "$name" "$(key_of "$name" "$krel")" "$VM/make/$name.sh" ${krel:+"$krel"}
