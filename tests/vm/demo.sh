#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# demo.sh: make demo. Sets up what is missing, builds, and runs the guest's demo.
. "$(dirname "$0")/lib.sh"

"$VM/setup.sh" "$(krel_full "${KREL:-}")"
say "demo: building the module and the userland"
mkdir -p "$BUILD"
"$VM/module.sh" >"$BUILD/demo-module.log" 2>&1 || {
	tail -n 40 "$BUILD/demo-module.log" >&2
	die "the module does not build; see build/demo-module.log"
}
"$VM/stage.sh"
say "demo: booting the guest (folder: build/vm/demo)"
status=0
TIMEOUT=${TIMEOUT:-300} RUN=demo "$VM/run.sh" "$VM/guest/demo.sh" || status=$?
[ $status = 0 ] || die "the demo failed with status $status; its logs are in build/vm/demo (dmesg, output, out/)"
