#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# test.sh: make test. Host tests; the stock lane on every kernel; the debug
# lane's part. One line per lane, and a closing line "N passed, M failed".
. "$(dirname "$0")/lib.sh"

passed=0 failed=0
summary=()

# count LANE SUITES PASSED FAILED
count() {
	passed=$((passed + $3))
	failed=$((failed + $4))
	summary+=("$(printf '%-24s %3d suites ran, %d ok, %d not ok' "$1" "$2" "$3" "$4")")
	say "test: ${summary[-1]}"
}

# The host's tests: formatting, lints, and every crate's own tests.
host_lane() {
	local log=$BUILD/test/host.log ok=0 bad=0 suites=0 n
	say "test: host: formatting, lints and cargo tests (log: build/test/host.log)"
	: >"$log"
	for step in "fmt --all -- --check" "clippy --quiet --workspace --all-targets -- -D warnings"; do
		suites=$((suites + 1))
		# shellcheck disable=SC2086
		if "$VM/cargo.sh" $step >>"$log" 2>&1; then
			ok=$((ok + 1))
		else
			bad=$((bad + 1))
			echo "FAIL cargo $step"
			tail -n 30 "$log"
		fi
	done
	if "$VM/cargo.sh" test --workspace --no-fail-fast >"$log.tests" 2>&1; then
		:
	else
		grep -E '^(test .* FAILED|error|---- )|panicked at' "$log.tests" | head -n 60 || true
		grep -q '^test result: FAILED' "$log.tests" || {
			bad=$((bad + 1))
			tail -n 40 "$log.tests"
		}
	fi
	suites=$((suites + $(grep -c '^test result:' "$log.tests" || true)))
	n=$(awk '/^test result:/ { s += $4 } END { print s + 0 }' "$log.tests")
	ok=$((ok + n))
	n=$(awk '/^test result:/ { s += $6 } END { print s + 0 }' "$log.tests")
	bad=$((bad + n))
	count host "$suites" "$ok" "$bad"
}

# steps TITLE COMMAND...: a step of the host's whose lines say "ok" or "FAIL".
steps() {
	local title=$1 out=$BUILD/test/${1// /-}.out ok bad
	shift
	say "test: $title"
	"$@" >"$out" 2>&1 || grep -v '^ok ' "$out" || true
	ok=$(grep -c '^ok ' "$out" || true)
	bad=$(grep -c '^FAIL ' "$out" || true)
	[ "$((ok + bad))" != 0 ] || bad=1
	count "$title" "$((ok + bad))" "$ok" "$bad"
}

# guest_lane TITLE RUN: the cases for LANE and KREL (from the environment).
guest_lane() {
	local title=$1 out=$BUILD/vm/$2 ok bad status=0
	if ! "$VM/module.sh" >"$BUILD/test/$2.module.log" 2>&1; then
		tail -n 40 "$BUILD/test/$2.module.log"
		echo "FAIL $title: the module does not build"
		count "$title" 0 0 1
		return
	fi
	say "test: $title: booting (folder: build/vm/$2)"
	# shellcheck disable=SC2086  # CASES is a list
	RUN=$2 "$VM/cases.sh" ${CASES:-} > >(grep -vE '^[0-9]+ passed, [0-9]+ failed$' || true) || status=$?
	wait $! || true
	ok=$(grep -c '^PASS ' "$out/output" 2>/dev/null || true)
	bad=$(grep -c '^FAIL ' "$out/output" 2>/dev/null || true)
	# A guest that died, or complained after its last case, is a failure too.
	if [ "$status" != 0 ] && [ "${bad:-0}" = 0 ]; then
		echo "FAIL $title: the guest ended with status $status"
		bad=1
	fi
	count "$title" "$((${ok:-0} + ${bad:-0}))" "${ok:-0}" "${bad:-0}"
}

mkdir -p "$BUILD/test"
"$VM/setup.sh" "${KERNELS[@]}"

# The debug kernel takes longest; from nothing it is built while the rest runs.
"$VM/setup.sh" debug >"$BUILD/test/debug-setup.log" 2>&1 &
debug_setup=$!

host_lane
steps lints "$VM/lints.sh"
if "$VM/stage.sh"; then
	for k in "${KERNELS[@]}"; do
		LANE=stock KREL=$k guest_lane "stock $k" "stock-$k"
	done
	# The lanes have built the module for all kernels.
	steps "no panic path" "$VM/panics.sh"
	say "test: debug: waiting for its kernel"
	if wait $debug_setup; then
		LANE=debug KREL='' guest_lane debug debug
	else
		tail -n 30 "$BUILD/test/debug-setup.log"
		echo "FAIL debug: its kernel could not be made"
		count debug 0 0 1
	fi
else
	echo "FAIL stage: the userland does not build"
	count stage 0 0 1
fi

echo
printf '%s\n' "${summary[@]}"
echo "$passed passed, $failed failed"
[ $failed = 0 ] && [ $passed != 0 ]
