#!/bin/sh
# SPDX-License-Identifier: MIT OR Apache-2.0
# link.sh LIBUSMBD.A FOLDER: make libusmbd.so.1 of the static library, and the link libusmbd.so that
# programs are built against, in that folder.
#
# rustc could make a shared library itself, but with a version script of its own, beside which there
# can be no other: its symbols would have no versions.
set -eu
here=$(dirname "$0")
mkdir -p "$2"
"${CC:-cc}" -shared -o "$2/libusmbd.so.1" \
	-Wl,-soname,libusmbd.so.1 -Wl,--version-script="$here/usmbd.map" \
	-Wl,--whole-archive "$1" -Wl,--no-whole-archive \
	-Wl,--gc-sections -Wl,--strip-debug -Wl,-z,relro,-z,now -Wl,-z,defs -lgcc_s -lpthread -ldl -lm -lc
ln -sfn libusmbd.so.1 "$2/libusmbd.so"
