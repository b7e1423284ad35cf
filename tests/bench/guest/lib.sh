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

# keep_symbols: where everything stands in the kernel, for those who read what the plugin counted.
keep_symbols() {
	cp /proc/kallsyms /out/kallsyms
}
