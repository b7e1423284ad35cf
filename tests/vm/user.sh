#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# user.sh COMMAND...: run a command that builds something for user space: on the
# host, if its cargo is new enough, else in the build environment.
. "$(dirname "$0")/lib.sh"

have=$(cargo --version 2>/dev/null | awk '{ print $2 }') || true
if [ -n "$have" ] && printf '%s\n' 1.85 "$have" | sort -VC; then
	exec "$@"
fi

env=$("$VM/cache.sh" buildenv)
mkdir -p "$CACHE/cargo-home"
exec "$VM/in-env.sh" "$env" --bind "$TOP" "$TOP" --bind "$CACHE/cargo-home" /cargo --setenv CARGO_HOME /cargo \
	--chdir "$TOP" -- "$@"
