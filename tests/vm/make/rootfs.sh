#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# rootfs.sh DIR: the guest's root file system, an ext4 image: Debian 13 with
# samba, its user smbtest, the RDMA tools, and ksmbd-tools beside them.
. "$(dirname "$0")/../lib.sh"

out=$1
mirror=$("$VM/mirror.sh")
packages=$(paste -sd, "$VM/config/guest-packages")

# shellcheck disable=SC2016  # the hooks' $1 is theirs
mmdebstrap --variant=minbase --include="$packages" \
	--aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--customize-hook='chroot "$1" useradd -M -s /usr/sbin/nologin smbtest' \
	--customize-hook='printf "pw\npw\n" | chroot "$1" smbpasswd -s -a smbtest' \
	--customize-hook='cd "$1/opt" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download -o APT::Sandbox::User=root ksmbd-tools' \
	--customize-hook='chroot "$1" sh -c "dpkg-deb -x /opt/ksmbd-tools*.deb /opt/ksmbd && rm /opt/*.deb"' \
	--customize-hook='mkdir -p "$1/src" "$1/build" "$1/out" "$1/srv/share" "$1/usr/lib/modules"' \
	trixie "$out/rootfs.tar" "deb $mirror trixie main"

# Sole owner root: as a user, fakeroot remembers the rest.
as_owner=()
[ "$(id -u)" = 0 ] || as_owner=(fakeroot)
"${as_owner[@]}" bash -eu -c '
	mkdir "$1/root"
	tar -x -p -C "$1/root" --exclude="./dev/*" -f "$1/rootfs.tar"
	kib=$(du -sk "$1/root" | cut -f1)
	truncate -s "$((kib + kib / 5 + 400 * 1024))K" "$1/rootfs.img"
	mke2fs -q -t ext4 -O ^has_journal -E lazy_itable_init=1 -d "$1/root" "$1/rootfs.img"
' - "$out"
rm -rf "$out/root" "$out/rootfs.tar"
