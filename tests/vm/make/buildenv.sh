#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# buildenv.sh DIR: the build environment, Debian 13 with its own gcc, rustc,
# bindgen and clang: the compilers that made the distribution's kernels.
. "$(dirname "$0")/../lib.sh"

out=$1
mirror=$("$VM/mirror.sh")
packages=$(paste -sd, "$VM/config/buildenv-packages")

# Through tar, so that a user without root gets files of their own.
mmdebstrap --variant=minbase --include="$packages" \
	--aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/locale/*' \
	--skip=cleanup/apt \
	trixie - "deb $mirror trixie main" "deb $mirror trixie-backports main" |
	tar -x -C "$out" --exclude='./dev/*' --no-same-owner
printf 'APT::Sandbox::User "root";\n' >"$out/etc/apt/apt.conf.d/90usmbd"
"$out/usr/bin/true" || [ -x "$out/usr/bin/rustc" ]
