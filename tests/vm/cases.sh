#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# cases.sh [NAME...]: run test cases (else all that are meant for this lane and
# kernel) in one guest, or with --list name these. LANE, KREL and RUN as for
# run.sh. A case says in its header where make test runs it; it can be run
# anywhere:
#   # lanes: stock debug     (stock, if it says nothing)
#   # kernels: all|default   (all)
#   # when: always|asked     (always; asked: with ALL=1, which make test-all sets)
#   # timeout: SECONDS       (120)
. "$(dirname "$0")/lib.sh"

lane=${LANE:-stock}
kernel=$(lane_kernel "$lane" "${KREL:-}")

# header FILE KEY DEFAULT
header() {
	local value
	value=$(sed -n "1,20s/^# $2: *//p" "$1" | head -n 1)
	echo "${value:-$3}"
}

meant_here() {
	case " $(header "$1" lanes stock) " in
	*" $lane "*) ;;
	*) return 1 ;;
	esac
	[ -n "${ALL:-}" ] || [ "$(header "$1" when always)" = always ] || return 1
	[ "$lane" = debug ] || [ "$kernel" = "${KERNELS[0]}" ] || [ "$(header "$1" kernels all)" = all ]
}

only_list=
if [ "${1:-}" = --list ]; then
	only_list=1
	shift
fi
names=()
total=60
for f in "$TOP"/tests/cases/*.sh "$TOP"/tests/cases/*.py; do
	[ -x "$f" ] || continue
	name=$(basename "$f")
	name=${name%.*}
	if [ $# -gt 0 ]; then
		[[ " $* " == *" $name "* ]] || continue
	else
		meant_here "$f" || continue
	fi
	names+=("$name")
	total=$((total + $(header "$f" timeout 120) + 10))
done
for wanted in "$@"; do
	[[ " ${names[*]} " == *" $wanted "* ]] || die "there is no case $wanted in tests/cases/ (or it is not executable)"
done
if [ -n "$only_list" ]; then
	printf '%s\n' "${names[@]}"
	exit 0
fi
if [ ${#names[@]} = 0 ]; then
	echo "0 passed, 0 failed"
	exit 0
fi
[ "$lane" != debug ] || total=$((total * 4))
# As guest/run-cases has it.
total=$((total * 3 * ${USMBD_TEST_COUNT:-1}))
TIMEOUT=${TIMEOUT:-$total} exec "$VM/run.sh" "$VM/guest/run-cases" "${names[@]}"
