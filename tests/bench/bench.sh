#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# bench.sh [GROUP...]: make bench. Measures (interface, scale, requests, transport, files; all if none is named),
# then makes build/bench/results.json, table.txt, profile.txt and the plots of all runs that are there,
# those of earlier calls too. QUICK=1: fewer rounds.
. "$(dirname "$0")/../vm/lib.sh"

HERE=$TOP/tests/bench
[ $# -gt 0 ] || set -- interface scale requests transport files
[ -z "${QUICK:-}" ] || export USMBD_BENCH_QUICK=1

# guest GROUP SCRIPT [ARGS...]: one run, in build/vm/bench-GROUP.
guest() {
	local group=$1
	shift
	say "bench: $group"
	RUN=bench-$group TIMEOUT=${TIMEOUT:-7200} "$VM/run.sh" "$HERE/guest/$@" ||
		die "bench: $group failed; see build/vm/bench-$group"
}

counted() {
	COUNT=$BUILD/bench/count.so guest "$@"
}

"$VM/setup.sh" "$(krel_full "${KREL:-}")"
mkdir -p "$BUILD/bench"
say "bench: building"
"$VM/module.sh" >"$BUILD/bench/module.log" 2>&1 || die "the module does not build; see build/bench/module.log"
IOCTL=1 "$VM/module.sh" >"$BUILD/bench/module-ioctl.log" 2>&1 ||
	die "the module with the ioctl variant does not build; see build/bench/module-ioctl.log"
"$VM/stage.sh"
cc -O2 -Wall -Wextra -shared -fPIC -fvisibility=hidden -o "$BUILD/bench/count.so" "$HERE/count/count.c"

for group; do
	case $group in
	interface | scale) counted "$group" "$group" ;;
	requests)
		counted requests-count requests count
		guest requests-trace requests trace
		;;
	transport | files) guest "$group" "$group" ;;
	*) die "bench: there is no group $group" ;;
	esac
done

libraries=$(cached bench-libraries "$(cat "$HERE/analyse/requirements.txt" <(python3 --version) | hash_of -)" \
	"$HERE/libraries.sh")
PYTHONPATH=$libraries python3 "$HERE/analyse/main.py" "$BUILD/vm" "$BUILD/bench"
say "bench: build/bench/ has results.json, table.txt, profile.txt and the plots"
