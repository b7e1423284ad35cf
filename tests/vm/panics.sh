#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# panics.sh [--write]: compare the calls into Rust's panic machinery in the
# modules built for the stock kernels with config/panics, which says of each why
# it cannot be reached. With --write the list is brought up to date; new origins
# get "WHY?" for a reason, to be filled in.
. "$(dirname "$0")/lib.sh"

env=$("$VM/cache.sh" buildenv)
opts=() objects=()
for k in "${KERNELS[@]}"; do
	[ -f "$BUILD/$k/driver/main.o" ] || die "the module is not built for $k: make module KREL=$k"
	# Clippy optimises less, and its objects have more of them.
	! grep -q clippy-driver "$BUILD/$k/driver/.main.o.cmd" || die "the module is built by clippy: make module KREL=$k"
	opts+=(--ro-bind "$("$VM/cache.sh" source "$k")" "/kernel/$k")
	objects+=("$k=$BUILD/$k")
done
exec "$VM/in-env.sh" "$env" --bind "$TOP" "$TOP" "${opts[@]}" -- \
	python3 "$VM/panics.py" "$TOP" "$VM/config/panics" "${objects[@]}" "$@"
