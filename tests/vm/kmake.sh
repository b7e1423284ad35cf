#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# kmake.sh KREL [bwrap options] -- MAKE-ARGUMENTS...: run make in the prepared
# tree of the kernel KREL ("debug" is the checkers' one), in the build
# environment. The trees stand at /kernel there, and cannot be changed.
. "$(dirname "$0")/lib.sh"

krel=$1
shift
opts=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
	opts+=("$1")
	shift
done
shift

env=$("$VM/cache.sh" buildenv)
llvm=()
if [ "$krel" = debug ]; then
	src=$("$VM/cache.sh" source "${KERNELS[0]}")
	obj=$("$VM/cache.sh" debug)/obj
	llvm=(LLVM=1)
else
	src=$("$VM/cache.sh" source "$krel")
	obj=$("$VM/cache.sh" kernel "$krel")
fi

exec "$VM/in-env.sh" "$env" --ro-bind "$src" /kernel/src --ro-bind "$obj" /kernel/obj "${opts[@]}" -- \
	make -C /kernel/obj "${llvm[@]}" "$@"
