#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# run.sh SECONDS [TARGET...]: fuzz each target for so long, one at a time; all of
# them if none is named. A line "ok TARGET: ..." or "FAIL TARGET: ..." for each; not
# 0 if one found something.
#
# What they find new goes to build/fuzz/corpus/, on top of the corpus here. The
# targets are built without a sanitizer: there is no unsafe code in them, and
# so the stable compiler does.
. "$(dirname "$0")/../vm/lib.sh"

CARGO_FUZZ=0.13.2
fuzz=$TOP/tests/fuzz
out=$BUILD/fuzz

seconds=${1:?usage: run.sh SECONDS [TARGET...]}
shift
targets=("$@")
[ $# -gt 0 ] || targets=(pdu record operations)
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "SECONDS=$seconds: a number of seconds"
for target in "${targets[@]}"; do
	[ -f "$fuzz/fuzz_targets/$target.rs" ] || die "there is no fuzz target '$target'"
done

# libFuzzer is C++.
world=()
where=host
has_cargo && command -v c++ >/dev/null || { world=(in_buildenv) where=buildenv; }

mkdir -p "$out/tools/bin"
log=$out/build.log
tool=$(cached cargo-fuzz "$CARGO_FUZZ-$where" "$fuzz/tool.sh" "$CARGO_FUZZ" "$where")
cp -u "$tool/cargo-fuzz" "$out/tools/bin/"
say "fuzz: building (log: ${log#"$TOP/"})"
"${world[@]}" "$out/tools/bin/cargo-fuzz" build --fuzz-dir "$fuzz" --sanitizer none --target-dir "$out/target" >"$log" 2>&1 ||
	{ tail -n 30 "$log"; die "the targets do not build"; }

# fuzz_one TARGET
fuzz_one() {
	local target=$1 log=$out/$1.log corpus=$out/corpus/$1 found=$out/findings/$1 program
	program=$(compgen -G "$out/target/*/release/$target" | head -n 1)
	mkdir -p "$corpus" "$found"
	say "fuzz: $target for $seconds s (log: ${log#"$TOP/"})"
	if "${world[@]}" "$program" "$corpus" "$fuzz/corpus/$target" -max_total_time="$seconds" \
		-timeout=20 -rss_limit_mb=1024 -print_final_stats=1 -artifact_prefix="$found/" >"$log" 2>&1; then
		awk -v target="$target" '
			/ cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") edges = $(i + 1) }
			/^Done / { runs = $2; seconds = $5 }
			END { printf "ok %s: %d runs in %d s, %d edges, no finding\n", target, runs, seconds, edges }' "$log"
	else
		echo "FAIL $target: a finding in ${found#"$TOP/"}"
		{ grep -E "panicked at|^SUMMARY|Test unit written" "$log" || tail -n 20 "$log"; } | sed 's/^/    /'
		return 1
	fi
}

status=0
for target in "${targets[@]}"; do
	fuzz_one "$target" || status=1
done
exit $status
