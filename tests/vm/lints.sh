#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# lints.sh: what cargo does not look at: the driver's formatting, the kernel's
# lints on the module, docs/unsafe.md against the source; with ALL=1 the lints
# for the other kernels, too, and the tests of the crates that have unsafe code
# with the address sanitizer.
# Prints "ok NAME" or "FAIL NAME" for each; status 1 if there is any of these.
. "$(dirname "$0")/lib.sh"

failed=0

# verdict NAME COMMAND...: what it says is shown only if it fails.
verdict() {
	local name=$1 out
	shift
	if out=$("$@" 2>&1); then
		echo "ok $name"
	else
		echo "FAIL $name"
		echo "$out" | tail -n 40
		failed=1
	fi
}

driver_format() {
	"$VM/in-env.sh" "$("$VM/cache.sh" buildenv)" --ro-bind "$TOP" "$TOP" --chdir "$TOP" -- \
		rustfmt --check --edition 2021 --config-path "$TOP" driver/main.rs
}

# Any warning is one too many.
module_lints() {
	local log
	log=$(LANE=stock KREL=$1 "$VM/module.sh" CLIPPY=1 2>&1) && ! grep -A 12 -E '^(warning|error)' <<<"$log" || {
		tail -n 20 <<<"$log"
		return 1
	}
}

unsafe_files() {
	diff --label docs/unsafe.md --label source -u \
		<(sed -n 's/^| \([a-z][^ ]*\.rs\) |.*/\1/p' "$TOP/docs/unsafe.md" | LC_ALL=C sort) \
		<(cd "$TOP" && find abi driver userlib tests -name '*.rs' -print0 |
			xargs -0 awk '{ sub(/\/\/.*/, "") } /(^|[^_[:alnum:]])unsafe($|[^_[:alnum:]])/ { print FILENAME; nextfile }' |
			LC_ALL=C sort)
}

# The compiler need not be a nightly one for it, but say that it knows. tests/header
# links a C program, which knows nothing of the sanitizer.
sanitizer() {
	local cargo=("$VM/user.sh" cargo test --quiet --manifest-path "$TOP/userlib/Cargo.toml"
		--target-dir "$BUILD/cargo-asan" --target x86_64-unknown-linux-gnu)
	export RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address
	"${cargo[@]}" -p usmbd --lib --test device --test memory && "${cargo[@]}" -p usmbd-preload
}

verdict "driver formatting" driver_format
verdict "docs/unsafe.md" unsafe_files
verdict "clippy, module for ${KERNELS[0]}" module_lints "${KERNELS[0]}"
if [ -n "${ALL:-}" ]; then
	for k in "${KERNELS[@]:1}"; do
		verdict "clippy, module for $k" module_lints "$k"
	done
	verdict "address sanitizer, user space" sanitizer
fi
exit $failed
