#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# coverage.sh: make coverage. Which lines of the driver the tests reach: the
# stock lane's cases (CASES=... for some), the raw scripts and the fuzzer (TIME
# seconds, 120), with a module that records its basic blocks (COVERAGE=1 for any
# other run does so too). Sums up over all runs with the same build of the
# module; the report is build/coverage/BUILD/report, beside MISSED.
# With --report only that.
. "$(dirname "$0")/lib.sh"

kernel=$(lane_kernel "${LANE:-stock}" "${KREL:-}")
export COVERAGE=1
"$VM/module.sh" >&2
module=$BUILD/$kernel-coverage/usmbd.ko
kept=$BUILD/coverage/$(hash_of "$module")
mkdir -p "$kept"

if [ "${1:-}" != --report ]; then
	"$VM/stage.sh"
	# Coverage counts also where a case fails.
	# shellcheck disable=SC2086  # CASES is a list
	RUN=coverage-cases "$VM/cases.sh" ${CASES:-} || true
	RUN=coverage-raw TIMEOUT=1500 "$VM/run.sh" tests/raw/run.py || true
	TIME=${TIME:-120} "$TOP/tests/fuzz/device/run.sh" || true
fi
seen=("$kept"/seen.*)
[ -e "${seen[0]}" ] || die "nothing has run with this build of the module"
"$VM/in-env.sh" "$("$VM/cache.sh" buildenv)" --bind "$TOP" "$TOP" -- \
	python3 "$TOP/tests/coverage/report.py" "$TOP" "$module" "${seen[@]}" | tee "$kept/report"
say "coverage: what has not run is in ${kept#"$TOP"/}/MISSED"
