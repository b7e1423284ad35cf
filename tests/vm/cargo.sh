#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# cargo.sh ARGS...: cargo for the workspace in userlib/, output below
# build/cargo: the host's, if it is new enough, else the build environment's.
. "$(dirname "$0")/lib.sh"

mkdir -p "$BUILD/cargo"
command=$1
shift
args=("$command" --manifest-path "$TOP/userlib/Cargo.toml")
[ "$command" = fmt ] || args+=(--target-dir "$BUILD/cargo")

if has_cargo; then
	exec cargo "${args[@]}" "$@"
fi
in_buildenv cargo "${args[@]}" "$@"
