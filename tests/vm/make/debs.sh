#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# debs.sh DIR KREL: what the distribution has for the kernel KREL: vmlinuz,
# its modules, .config, Module.symvers, and the tar of its source.
. "$(dirname "$0")/../lib.sh"

out=$1 krel=$2
env=$("$VM/cache.sh" buildenv)
series=$(cut -d. -f1,2 <<<"$krel")
mkdir -p "$out/debs" "$out/apt/lists/partial" "$out/apt/archives/partial"

"$VM/in-env.sh" "$env" --bind "$out" /out --setenv KREL "$krel" --setenv SERIES "$series" -- bash -eux <<'IN'
cd /out/debs
apt=(-o Dir::State::lists=/out/apt/lists -o Dir::Cache=/out/apt)
apt-get "${apt[@]}" update
version=$(apt-cache "${apt[@]}" show "linux-image-$KREL" | sed -n 's/^Version: //p' | head -1)
[ -n "$version" ] || {
	echo "the archive has no linux-image-$KREL; it has:"
	apt-cache "${apt[@]}" search --names-only '^linux-image-.*deb13-amd64$'
	exit 1
}
want=("linux-image-$KREL=$version" "linux-headers-$KREL=$version" "linux-source-$SERIES=$version")
for p in binary modules; do
	if apt-cache "${apt[@]}" show "linux-$p-$KREL" >/dev/null 2>&1; then
		want+=("linux-$p-$KREL=$version")
	fi
done
apt-get "${apt[@]}" download "${want[@]}"
for d in *.deb; do dpkg-deb -x "$d" /out/root; done
IN

cd "$out"
# The place of vmlinuz depends on the package's age.
for v in root/usr/lib/modules/"$krel"/vmlinuz root/boot/vmlinuz-"$krel"; do
	[ -f "$v" ] && mv "$v" vmlinuz
done
for m in root/usr/lib/modules/"$krel" root/lib/modules/"$krel"; do
	[ -d "$m/kernel" ] && mv "$m" modules
done
mv root/usr/src/linux-headers-"$krel"/.config config
mv root/usr/src/linux-headers-"$krel"/Module.symvers Module.symvers
mv root/usr/src/linux-source-"$series".tar.xz source.tar.xz
rm -rf debs apt root
[ -s vmlinuz ] && [ -d modules ] && [ -s config ] && [ -s Module.symvers ]
