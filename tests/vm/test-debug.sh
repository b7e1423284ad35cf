#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# test-debug.sh: make test-debug. Every guest suite of the stock lane, on the
# debug lane's kernel; after each, the module's memory is accounted for. The
# suites share two guests, which run side by side, or more if there are more
# than MOST for each. A case that cannot run
# there says why in its header ("# not on debug: REASON"). The closing line is
#   suites: N of N, splats: 0, leaks: 0
# SUITES="a b" runs only these, GO_ON=1 only those that have not passed yet.
. "$(dirname "$0")/lib.sh"

kept=$BUILD/test-debug
most=${MOST:-30}
mkdir -p "$kept"
[ -n "${GO_ON:-}" ] || rm -f "$kept/results"
touch "$kept/results"

"$VM/setup.sh" debug >"$kept/setup.log" 2>&1 || {
	tail -n 30 "$kept/setup.log"
	die "the debug lane's kernel could not be made"
}
LANE=debug KREL='' "$VM/module.sh" >"$kept/module.log" 2>&1 || {
	tail -n 30 "$kept/module.log"
	die "the module does not build"
}
"$VM/stage.sh" >"$kept/stage.log" 2>&1 || {
	tail -n 30 "$kept/stage.log"
	die "the userland does not build"
}

# The stock lane's list is what counts; what this one has besides comes on top.
list() {
	ALL=1 LANE=$1 KREL='' "$VM/cases.sh" --list
	echo raw
}
mapfile -t all < <(list stock; list debug | grep -vxF -f <(list stock))
[ -z "${SUITES:-}" ] || read -ra all <<<"$SUITES"
suites=()
for suite in "${all[@]}"; do
	why=$(sed -n '1,20s/^# not on debug: *//p' "$TOP/tests/cases/$suite".* 2>/dev/null || true)
	if [ -n "$why" ]; then
		echo "$suite is left out: $why"
	else
		suites+=("$suite")
	fi
done

passed() {
	grep -qx "$1 ok 0 0" "$kept/results"
}

# seconds SUITE...: how long they may take.
seconds() {
	local sum=600 limit suite
	for suite in "$@"; do
		limit=$(sed -n '1,20s/^# timeout: *\([0-9]*\).*/\1/p' "$TOP/tests/cases/$suite".* 2>/dev/null | head -n 1)
		[ "$suite" != raw ] || limit=750
		sum=$((sum + 12 * ${limit:-120} + 120))
	done
	echo $sum
}

# group NUMBER SUITE...: one guest.
group() {
	local run=test-debug-$1
	shift
	say "test-debug: $*"
	LANE=debug KREL='' RUN=$run TIMEOUT=$(seconds "$@") CMDLINE="${CMDLINE:-} slub_debug=U kmemleak=off LAB_NO_USMBD=1" \
		"$VM/run.sh" "$VM/guest/run-suites" "$@" || true
	cat "$BUILD/vm/$run/out/suites" >>"$kept/results" 2>/dev/null || true
	# What the kernel said outside of any suite, at its end for instance.
	[ ! -s "$BUILD/vm/$run/splats" ] || echo "$run" >>"$kept/outside"
}

left=()
for suite in "${suites[@]}"; do
	! passed "$suite" || continue
	left+=("$suite")
	# A result of an older run does not count.
	sed -i "/^$suite /d" "$kept/results"
done

# Two guests side by side: a guest sleeps much. They take turns in the list, where long suites of
# one kind stand together.
: >"$kept/outside"
guests=$(((${#left[@]} + most - 1) / most))
[ $guests -ne 1 ] || [ ${#left[@]} -lt 4 ] || guests=2
for ((number = 0; number < guests; number++)); do
	[ $number -lt 2 ] || wait -n || true
	share=()
	for ((at = number; at < ${#left[@]}; at += guests)); do
		share+=("${left[at]}")
	done
	group $((number + 1)) "${share[@]}" &
done
wait
outside=$(wc -l <"$kept/outside")

good=0 splats=0 leaks=0
for suite in "${suites[@]}"; do
	read -r _ result some lost <<<"$(grep "^$suite " "$kept/results" || echo "$suite missing 0 0")"
	[ "$result" != ok ] || good=$((good + 1))
	splats=$((splats + some))
	leaks=$((leaks + lost))
	[ "$result $some $lost" = "ok 0 0" ] || echo "$suite: $result, splats: $some, leaks: $lost"
done
[ $splats != 0 ] || splats=$outside
echo "suites: $good of ${#suites[@]}, splats: $splats, leaks: $leaks"
[ "$good $splats $leaks" = "${#suites[@]} 0 0" ]
