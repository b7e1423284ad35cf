#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# source.sh DIR KREL: the unpacked source of the kernel KREL.
. "$(dirname "$0")/../lib.sh"

debs=$("$VM/cache.sh" debs "$2")
xz -T0 -dc "$debs/source.tar.xz" | tar -x -C "$1" --strip-components=1 --no-same-owner
[ -s "$1/Makefile" ]
