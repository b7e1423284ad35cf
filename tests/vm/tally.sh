#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# tally.sh: make tally. How often the cases that passed did what they are for, by kernel and by what,
# over all runs of this checkout: build/tally has a line "KERNEL COMMIT COUNT WHAT" for each. Then the
# fuzzer's sums, which it keeps itself.
. "$(dirname "$0")/lib.sh"

[ ! -f "$BUILD/tally" ] || awk '
	{ kernel = $1; count = $3; $1 = $2 = $3 = ""; sum[kernel ":" $0] += count }
	END { for (key in sum) { split(key, part, ":   "); printf "%-20s %8d  %s\n", part[1], sum[key], part[2] } }
' "$BUILD/tally" | sort
for sum in "$BUILD"/fuzz/device-*.sum; do
	[ ! -f "$sum" ] || echo "${sum#"$TOP"/}: $(awk '$1 == "batches"' "$sum")"
done
