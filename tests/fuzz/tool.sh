#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# tool.sh FOLDER VERSION host|buildenv: put cargo-fuzz there, built with the host's
# cargo or the build environment's.
. "$(dirname "$0")/../vm/lib.sh"

world=()
[ "$3" = host ] || world=(in_buildenv)
# The build environment sees the checkout, and not the cache.
made=$BUILD/fuzz/tools
"${world[@]}" cargo install cargo-fuzz --locked --version "$2" --root "$made"
cp "$made/bin/cargo-fuzz" "$1/"
