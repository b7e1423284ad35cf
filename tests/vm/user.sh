#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# user.sh COMMAND...: run a command that builds something for user space: on the
# host, if its cargo is new enough, else in the build environment.
. "$(dirname "$0")/lib.sh"

if has_cargo; then
	exec "$@"
fi
in_buildenv "$@"
