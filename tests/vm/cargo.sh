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

have=$(cargo --version 2>/dev/null | awk '{ print $2 }') || true
if [ -n "$have" ] && printf '%s\n' 1.85 "$have" | sort -VC; then
	exec cargo "${args[@]}" "$@"
fi

env=$("$VM/cache.sh" buildenv)
mkdir -p "$CACHE/cargo-home"
exec "$VM/in-env.sh" "$env" --bind "$TOP" "$TOP" --bind "$CACHE/cargo-home" /cargo --setenv CARGO_HOME /cargo \
	--chdir "$TOP" -- cargo "${args[@]}" "$@"
