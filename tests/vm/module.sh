#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# module.sh [make arguments]: build this checkout's driver for the kernel KREL
# (LANE=debug: the checkers' one), into build/KREL/ (objects there too; the
# source stays clean).
. "$(dirname "$0")/lib.sh"

krel=$(lane_kernel "${LANE:-stock}" "${KREL:-}")
out=$BUILD/$krel
# DISABLE=1: the one that can take a command away, beside the usual one.
[ -z "${DISABLE:-}" ] || {
	out+=-disable
	set -- "$@" USMBD_DISABLE=1
}
# COVERAGE=1: the one that tells which of its blocks have run.
[ -z "${COVERAGE:-}" ] || {
	out+=-coverage
	set -- "$@" USMBD_COVERAGE=1
}
# CLIPPY=1: nobody runs it, and it optimises less.
[[ " $* " != *" CLIPPY=1 "* ]] || out+=-clippy
# IOCTL=1: the one that has the ioctl variant, likewise.
[ -z "${IOCTL:-}" ] || {
	out+=-ioctl
	set -- "$@" USMBD_IOCTL=1
}
mkdir -p "$out"
[ -f "$TOP/Kbuild" ] || die "this checkout has no Kbuild yet"

build() {
	"$VM/kmake.sh" "$krel" --ro-bind "$TOP" "$TOP" --bind "$out" "$out" -- \
		-j"$(nproc)" M="$TOP" MO="$out" "$@" modules
}
with_lock "module-$(hash_of - <<<"$out")" build "$@"

# Rust symbols carry a hash of the compiler and its options: one that the
# distribution's kernel does not export would only be seen at load time.
symvers=$("$VM/cache.sh" "$([ "$krel" = debug ] && echo debug || echo kernel)" "$krel")
[ "$krel" != debug ] || symvers+=/obj
for ko in "$out"/*.ko; do
	missing=$(nm -u "$ko" | awk '$2 ~ /^_R/ { print $2 }' |
		grep -vxF -f <(awk '{ print $2 }' "$symvers/Module.symvers") || true)
	[ -z "$missing" ] || die "$ko needs Rust symbols that $krel does not export:
$missing"
done
