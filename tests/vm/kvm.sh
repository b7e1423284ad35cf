#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# kvm.sh BOOT: print QEMU's options for a processor: KVM where a guest really
# starts on it, found out once per boot of this machine; TCG else.
. "$(dirname "$0")/lib.sh"

boot=$1
answer=$CACHE/kvm-$(cat /proc/sys/kernel/random/boot_id 2>/dev/null || echo unknown)

probe() {
	[ ! -f "$answer" ] || return 0
	if [ -r /dev/kvm ] && [ -w /dev/kvm ] &&
		timeout -k 1 20 qemu-system-x86_64 -accel kvm -cpu host -m 512 -display none -no-reboot -nodefaults \
			-kernel "$boot/vmlinuz" -initrd "$boot/initrd.gz" -append "console=ttyS0 panic=-1 usmbd.probe" \
			-serial stdio </dev/null 2>/dev/null | grep -q usmbd-probe-ok; then
		echo kvm >"$answer.tmp"
	else
		echo tcg >"$answer.tmp"
	fi
	mv "$answer.tmp" "$answer"
	say "processor: guests run on $(cat "$answer")"
}
[ -f "$answer" ] || with_lock kvm probe >&2

if [ "$(cat "$answer")" = kvm ]; then
	echo "-accel kvm -cpu host"
else
	echo "-accel tcg,thread=multi -cpu max"
fi
