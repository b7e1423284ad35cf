#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# stage.sh: build the userland and lay out in build/stage/{bin,lib,include}
# what the guest gets of it.
. "$(dirname "$0")/lib.sh"

[ -f "$TOP/userlib/Cargo.toml" ] || die "this checkout has no userlib/Cargo.toml yet"
stage=$BUILD/stage

# It needs neither libc nor headers, so the environment's gcc is enough.
build_compat32() {
	in_buildenv gcc -m32 -O2 -Wall -Wextra -Werror -ffreestanding -fno-pie -no-pie -fno-stack-protector \
		-static -nostdlib -o "$BUILD/compat32" tests/compat/compat32.c
}

build_release() {
	"$VM/cargo.sh" build --quiet --release --workspace --bins --lib --examples
}

# fsx, which Debian has not. What it does takes no time beside what it waits for.
build_fsx() {
	[ -x "$BUILD/tools/bin/fsx" ] ||
		"$VM/user.sh" cargo install --quiet --debug --locked --version "=0.3.2" --root "$BUILD/tools" \
			--target-dir "$BUILD/cargo-tools" fsx
}

# copy FOLDER FILE...: those of the files that exist.
copy() {
	local to=$stage.new/$1 f
	shift
	mkdir -p "$to"
	for f in "$@"; do
		[ ! -f "$f" ] || cp "$f" "$to"
	done
}

make_stage() {
	local out=$BUILD/cargo/release
	build_release
	build_compat32
	build_fsx
	rm -rf "$stage.new"
	copy lib "$out"/libusmbd_preload.so
	"$VM/user.sh" "$TOP/userlib/link.sh" "$out/libusmbd.a" "$stage.new/lib"
	copy bin "$out"/usmbdctl "$out"/usmbd-peer "$out"/usmbd-bench "$out"/usmbd-fuzz-device "$out"/examples/echo \
		"$BUILD"/compat32 "$BUILD"/tools/bin/fsx
	copy include "$TOP"/userlib/include/*.h
	"$VM/user.sh" cc -std=gnu11 -O2 -Wall -Wextra -Werror -I "$stage.new/include" \
		-o "$stage.new/bin/c-echo" "$TOP/tests/c/echo.c" -L "$stage.new/lib" -lusmbd
	rm -rf "$stage"
	mv "$stage.new" "$stage"
}

mkdir -p "$BUILD"
with_lock "stage-$(hash_of - <<<"$BUILD")" make_stage
