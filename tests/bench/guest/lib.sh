# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
# What the measurements share in the guest. Sourced.

set -euo pipefail

quick=()
[ -z "${USMBD_BENCH_QUICK:-}" ] || quick=(--quick)

# with_ioctl_variant: load the module that has it in the place of the usual one.
with_ioctl_variant() {
	rmmod usmbd
	insmod "/src/build/$LAB_KERNEL-ioctl/usmbd.ko"
}

# make_file: what is read has to be there; it is not what is measured.
make_file() {
	head -c 67108864 /dev/zero >/srv/share/bench
	# smbd opens it as the user who logged in.
	chmod 666 /srv/share/bench
}

# keep_symbols: where everything stands in the kernel, for those who read what the plugin counted.
keep_symbols() {
	cp /proc/kallsyms /out/kallsyms
}
