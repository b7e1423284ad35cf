#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# cargo.sh ARGS...: cargo for the workspace in userlib/, output below
# build/cargo; see user.sh for whose.
. "$(dirname "$0")/lib.sh"

mkdir -p "$BUILD/cargo"
command=$1
shift
args=("$command" --manifest-path "$TOP/userlib/Cargo.toml")
[ "$command" = fmt ] || args+=(--target-dir "$BUILD/cargo")

exec "$VM/user.sh" cargo "${args[@]}" "$@"
