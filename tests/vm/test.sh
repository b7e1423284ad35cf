#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# test.sh: make test. Host tests, lints and 30 s of each fuzz target; the stock lane
# on every kernel; docs/abi.md by bytes alone; the debug lane's part. One line per
# lane, and a closing line "N passed, M failed". Two guests run side by side, and the
# host's steps beside them: a guest sleeps much.
. "$(dirname "$0")/lib.sh"

results=$BUILD/test/results
failures=$BUILD/test/failures

# count LANE SUITES PASSED FAILED
count() {
	local line
	line=$(printf '%-24s %3d suites ran, %d ok, %d not ok' "$@")
	echo "$line" >>"$results"
	say "test: $line"
}

# failed TITLE <OUTPUT: keeps what failed, with the end of what it said and the checks before
# that, for the end.
failed() {
	awk -v title="$1" '
		function tell(  i, shown) {
			for (i = 1; i <= n - 12 && shown < 4; i++)
				if (said[i] ~ /FAILED/) { print said[i]; shown++ }
			for (i = n > 12 ? n - 11 : 1; i <= n; i++) print said[i]
			n = 0
		}
		/^FAIL / { tell(); print title ": " $0; inside = 1; next }
		inside && /^    / { said[++n] = $0; next }
		{ tell(); inside = 0 }
		END { tell() }' >>"$failures"
}

# fail TITLE WHAT
fail() {
	echo "FAIL $2"
	echo "FAIL $2" | failed "$1"
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
			fail "host" "cargo $step"
			tail -n 30 "$log"
		fi
	done
	if "$VM/cargo.sh" test --workspace --no-fail-fast >"$log.tests" 2>&1; then
		:
	else
		grep -E '^(test .* FAILED|error|---- )|panicked at' "$log.tests" | head -n 60 || true
		sed -n 's/^test \(.*\) \.\.\. FAILED$/FAIL \1/p' "$log.tests" | failed host
		grep -q '^test result: FAILED' "$log.tests" || {
			bad=$((bad + 1))
			fail host "cargo test"
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
	failed "$title" <"$out"
	ok=$(grep -c '^ok ' "$out" || true)
	bad=$(grep -c '^FAIL ' "$out" || true)
	[ "$((ok + bad))" != 0 ] || bad=1
	count "$title" "$((ok + bad))" "$ok" "$bad"
}

# guest_lane TITLE RUN COMMAND...: what COMMAND runs in a guest, for LANE and KREL
# (from the environment); each of its suites is a line that begins with PASS or FAIL.
# QUIET=1 shows only those that failed.
guest_lane() {
	local title=$1 run=$2 out=$BUILD/vm/$2 ok bad status=0 hidden='^[0-9]+ passed, [0-9]+ failed$'
	shift 2
	[ -z "${QUIET:-}" ] || hidden+='|^PASS '
	if ! "$VM/module.sh" >"$BUILD/test/$run.module.log" 2>&1; then
		tail -n 40 "$BUILD/test/$run.module.log"
		fail "$title" "the module does not build"
		count "$title" 0 0 1
		return
	fi
	say "test: $title: booting (folder: build/vm/$run)"
	RUN=$run "$@" | { grep --line-buffered -vE "$hidden" || true; } | sed -u "s|^|$title: |" ||
		status=${PIPESTATUS[0]}
	ok=$(grep -c '^PASS ' "$out/output" 2>/dev/null || true)
	bad=$(grep -c '^FAIL ' "$out/output" 2>/dev/null || true)
	[ ! -f "$out/output" ] || failed "$title" <"$out/output"
	# A guest that died, or complained after its last case, is a failure too.
	if [ "$status" != 0 ] && [ "${bad:-0}" = 0 ]; then
		fail "$title" "the guest ended with status $status"
		bad=1
	fi
	count "$title" "$((${ok:-0} + ${bad:-0}))" "${ok:-0}" "${bad:-0}"
}

# cases TITLE RUN CASE...
cases() {
	local title=$1 run=$2
	shift 2
	guest_lane "$title" "$run" "$VM/cases.sh" "$@"
}

# What needs no guest: guests go first.
host_steps() {
	renice -n 5 -p $BASHPID >/dev/null
	host_lane
	steps lints "$VM/lints.sh"
	steps fuzzing "$TOP/tests/fuzz/run.sh" 30
}

# part LANE KREL N OF: the names of each OFth of the lane's cases, from the Nth on.
part() {
	# shellcheck disable=SC2086  # CASES is a list
	LANE=$1 KREL=$2 "$VM/cases.sh" --list ${CASES:-} | sed -n "$3~$4p"
}

# stock_lane KREL N OF
stock_lane() {
	local names
	mapfile -t names < <(part stock "$@")
	[ ${#names[@]} = 0 ] || LANE=stock KREL=$1 cases "stock ${1%-amd64}" "stock-$1-$2" "${names[@]}"
}

# debug_lane N OF
debug_lane() {
	local names
	say "test: debug: waiting for its kernel"
	tail --pid="$debug_setup" -f /dev/null
	if [ ! -f "$BUILD/test/debug-setup.done" ]; then
		tail -n 30 "$BUILD/test/debug-setup.log"
		fail "debug" "its kernel could not be made"
		count debug 0 0 1
		return
	fi
	mapfile -t names < <(part debug '' "$@")
	[ ${#names[@]} = 0 ] || LANE=debug KREL='' cases debug "debug-$1" "${names[@]}"
}

# The lanes in guests, each a job. Two streams take the next one whenever they are free.
queue=$BUILD/test/queue

next_job() {
	(
		flock 9
		sed -n 1p "$queue"
		sed -i 1d "$queue"
	) 9>"$queue.lock"
}

stream() {
	local job what
	while read -r job what < <(next_job); do
		# shellcheck disable=SC2086  # its arguments
		case $job in
		stock) stock_lane $what ;;
		abi) LANE=stock KREL='' TIMEOUT=1500 QUIET=1 guest_lane "docs/abi.md by bytes" abi "$VM/run.sh" tests/raw/run.py ;;
		debug) debug_lane $what ;;
		esac
	done
}

mkdir -p "$BUILD/test"
: >"$results"
: >"$failures"
rm -f "$BUILD/test/debug-setup.done"

# The debug kernel takes longest; from nothing it is built while all else is done.
{ "$VM/setup.sh" debug >"$BUILD/test/debug-setup.log" 2>&1 && touch "$BUILD/test/debug-setup.done"; } &
debug_setup=$!
"$VM/setup.sh" "${KERNELS[@]}"

if "$VM/stage.sh"; then
	{
		# The default kernel has most cases.
		printf 'stock %s 2\n' "${KERNELS[0]} 1" "${KERNELS[0]} 2"
		printf 'stock %s 1 1\n' "${KERNELS[@]:1}"
		[ -n "${CASES:-}" ] || echo abi
		printf 'debug %s 2\n' 1 2
	} >"$queue"
	host_steps &
	host_steps=$!
	stream &
	stream=$!
	stream
	wait $stream || count "the second stream of guests" 0 0 1
	wait $host_steps || count "the host's steps" 0 0 1
	# The lanes have built the module for all kernels.
	steps "no panic path" "$VM/panics.sh"
else
	fail "stage" "the userland does not build"
	count stage 0 0 1
	host_steps
fi

echo
# The halves of a lane are one lane.
awk '{ at = match($0, / +[0-9]+ suites ran/); title = substr($0, 1, at - 1) }
	!(title in suites) { order[++n] = title }
	{ suites[title] += $(NF - 7); ok[title] += $(NF - 4); bad[title] += $(NF - 2) }
	END { for (i = 1; i <= n; i++) { t = order[i]
		printf "%-24s %3d suites ran, %d ok, %d not ok\n", t, suites[t], ok[t], bad[t] } }' "$results"
cat "$failures"
passed=$(awk '{ s += $(NF-4) } END { print s + 0 }' "$results")
failed=$(awk '{ s += $(NF-2) } END { print s + 0 }' "$results")
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" != 0 ]
