#!/bin/bash
# SPDX-License-Identifier: MIT OR Apache-2.0
# install.sh STAGE: install what stands in the folder STAGE (`make stage`): libraries, header, pkg-config
# file, operator's command, and the documentation, which says how to build the module.
# PREFIX is where it will be (/usr/local), DESTDIR a folder to put that into.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=${PREFIX:-/usr/local}
to=${DESTDIR:-}$prefix

install -d "$to/lib/pkgconfig"
install -m 755 "$1/lib/libusmbd.so.1" "$1/lib/libusmbd_preload.so" "$to/lib"
ln -sfn libusmbd.so.1 "$to/lib/libusmbd.so"
sed "s|@PREFIX@|$prefix|" "$here/usmbd.pc.in" >"$to/lib/pkgconfig/usmbd.pc"
install -D -m 644 -t "$to/include" "$1/include/usmbd.h"
[ ! -f "$1/bin/usmbdctl" ] || install -D -m 755 -t "$to/bin" "$1/bin/usmbdctl"
install -D -m 644 -t "$to/share/doc/usmbd" "$here/../README.md" "$here"/../docs/*.md
