#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# run.sh SECONDS [TARGET...]: fuzz each target for so long, one at a time; all of
# them if none is named. A line "ok TARGET: ..." or "FAIL TARGET: ..." for each; not
# 0 if one found something.
#
# What they find new goes to build/fuzz/corpus/, on top of the corpus here. The
# targets are built without a sanitizer: there is no unsafe code in them, and
# so the stable compiler does. The flags are those of cargo-fuzz, whose own build
# would take longer than all else here.
. "$(dirname "$0")/../vm/lib.sh"

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
has_cargo && command -v c++ >/dev/null || world=(in_buildenv)

mkdir -p "$out"
log=$out/build.log
flags="--cfg fuzzing -Ccodegen-units=1 -Cdebug-assertions -Cpasses=sancov-module"
for flag in sanitizer-coverage-level=4 sanitizer-coverage-inline-8bit-counters sanitizer-coverage-pc-table \
	sanitizer-coverage-trace-compares simplifycfg-branch-fold-threshold=0; do
	flags+=" -Cllvm-args=-$flag"
done
say "fuzz: building (log: ${log#"$TOP/"})"
# With --target, what runs while it is built (build scripts) is not built like this.
"${world[@]}" env RUSTFLAGS="$flags" cargo build --release --bins --manifest-path "$fuzz/Cargo.toml" \
	--target x86_64-unknown-linux-gnu --target-dir "$out/target" >"$log" 2>&1 ||
	{ tail -n 30 "$log"; die "the targets do not build"; }

# fuzz_one TARGET
fuzz_one() {
	local target=$1 log=$out/$1.log corpus=$out/corpus/$1 found=$out/findings/$1 program
	program=$out/target/x86_64-unknown-linux-gnu/release/$target
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
