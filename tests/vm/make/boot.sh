#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# boot.sh DIR KREL: what QEMU boots: vmlinuz, initrd, and modules.img, the
# image that the guest mounts at /usr/lib/modules.
. "$(dirname "$0")/../lib.sh"

out=$1 krel=$2
env=$("$VM/cache.sh" buildenv)
mkdir -p "$out/lib/modules" "$out/initrd/modules" "$out/initrd/bin"

if [ "$krel" = debug ]; then
	tree=$("$VM/cache.sh" debug)
	peers=$tree
	release=$(cat "$tree/obj/include/config/kernel.release")
	list=all
else
	tree=$("$VM/cache.sh" debs "$krel")
	peers=$("$VM/cache.sh" peers "$krel")
	release=$krel
	list=some
fi
cp "$tree/vmlinuz" "$out/vmlinuz"

"$VM/in-env.sh" "$env" --bind "$out" /out --ro-bind "$tree" /tree --ro-bind "$peers" /peers --ro-bind "$VM" /vm \
	--setenv R "$release" --setenv LIST "$list" -- bash -eux <<'IN'
to=/out/lib/modules/$R
if [ $LIST = all ]; then
	cp -r /tree/modules "$to"
else
	cp -r /tree/modules "/tmp/full"
	mkdir -p /tmp/lib/modules && mv /tmp/full "/tmp/lib/modules/$R"
	depmod -b /tmp "$R"
	python3 /vm/make/pick-modules.py "/tmp/lib/modules/$R" /vm/config/guest-modules "$to"
	rm -rf "$to"/kernel/fs/smb "$to"/kernel/drivers/infiniband/sw/siw
	mkdir -p "$to/updates"
	cp /peers/*.ko "$to/updates"
	strip -g "$to"/updates/*.ko
fi
depmod -b /out "$R"
# What is built into the kernel has no module: then there is nothing to load.
for m in virtio_pci virtio_blk ext4 9pnet_virtio 9p virtio_rng virtio_console; do
	modprobe -d /out -S "$R" --show-depends "$m" || true
done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r ko; do
	cp "$ko" /out/initrd/modules
	basename "$ko" >>/out/initrd/modules/order
done
grep -q . /out/initrd/modules/order || [ $LIST = all ]
touch /out/initrd/modules/order
IN

cp "$(command -v busybox)" "$out/initrd/bin/busybox"
cp "$VM/make/initramfs-init" "$out/initrd/init"
chmod +x "$out/initrd/init"
(cd "$out/initrd" && find . | cpio -o -H newc -R 0:0 --quiet | gzip -1) >"$out/initrd.gz"
echo "$release" >"$out/release"

kib=$(du -sk "$out/lib/modules" | cut -f1)
truncate -s "$((kib + kib / 5 + 16384))K" "$out/modules.img"
mke2fs -q -t ext4 -O ^has_journal -d "$out/lib/modules" "$out/modules.img"
rm -rf "$out/lib" "$out/initrd"
