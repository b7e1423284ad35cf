#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# peers.sh DIR KREL: cifs, smbdirect, ksmbd and siw, which the distribution
# builds without SMB Direct or not at all, from the same source.
. "$(dirname "$0")/../lib.sh"

out=$1 krel=$2
for m in fs/smb drivers/infiniband/sw/siw; do
	mkdir -p "$out/build/$m"
	"$VM/kmake.sh" "$krel" --bind "$out/build" /out -- -j"$(nproc)" M=/kernel/src/"$m" MO=/out/"$m" modules
done
find "$out/build" -name '*.ko' -exec mv {} "$out" \;
rm -rf "$out/build"
[ -s "$out/cifs.ko" ] && [ -s "$out/smbdirect.ko" ] && [ -s "$out/ksmbd.ko" ] && [ -s "$out/siw.ko" ]
