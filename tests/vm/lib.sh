# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What every script of the lab shares: where things are, progress lines,
# and the cache. Sourced, never run.

set -euo pipefail

VM=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TOP=$(cd "$VM/../.." && pwd)
CACHE=${USMBD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/usmbd}
BUILD=$TOP/build
KERNELS=(7.3.4+deb13-amd64 7.2.12+deb13-amd64)
mkdir -p "$CACHE/locks" "$CACHE/logs" "$CACHE/tmp"
CACHE=$(cd "$CACHE" && pwd)

START=${USMBD_START:-$(date +%s)}
export USMBD_START=$START USMBD_CACHE=$CACHE

# say TEXT...: one progress line, on stderr, so that stdout stays for answers.
say() {
	printf '[%4ds] %s\n' "$(($(date +%s) - START))" "$*" >&2
}

die() {
	printf 'usmbd lab: %s\n' "$*" >&2
	exit 1
}

# krel_full NAME: the release people mean: "7.3.4+deb13" is "7.3.4+deb13-amd64".
krel_full() {
	case $1 in
	'') echo "${KERNELS[0]}" ;;
	debug) echo debug ;;
	*-amd64) echo "$1" ;;
	*) echo "$1-amd64" ;;
	esac
}

# lane_kernel LANE KREL: the name of the prepared tree that a lane uses.
lane_kernel() {
	case $1 in
	stock) krel_full "$2" ;;
	debug) echo debug ;;
	*) die "LANE=$1: there are 'stock' and 'debug'" ;;
	esac
}

# hash_of FILE...: twelve digits that change when a file does.
hash_of() {
	cat -- "$@" | sha256sum | cut -c1-12
}

# with_lock NAME COMMAND...: run it while nobody else holds NAME.
with_lock() {
	local name=$1
	shift
	(
		flock -n 9 || {
			say "$name: somebody else is at it, waiting"
			flock 9
		}
		"$@" 9>&-
	) 9>"$CACHE/locks/$name"
}

# cached NAME KEY BUILDER ARGS...: print the folder of the cache entry NAME-KEY.
# If there is none, BUILDER is run with a temporary folder and ARGS; its
# result is renamed into place only when it is whole.
cached() {
	local name=$1 key=$2 dir
	dir=$CACHE/$name-$key
	[ -d "$dir" ] || with_lock "$name-$key" cached_make "$@" >&2
	echo "$dir"
}

cached_make() {
	local name=$1 key=$2 builder=$3 dir tmp log t0
	shift 3
	dir=$CACHE/$name-$key
	[ ! -d "$dir" ] || return 0
	tmp=$CACHE/tmp/$name-$key
	log=$CACHE/logs/$name-$key.log
	rm -rf "$tmp"
	mkdir -p "$tmp"
	t0=$(date +%s)
	say "$name: making it (log: $log)"
	if ! bash "$builder" "$tmp" "$@" >"$log" 2>&1 </dev/null; then
		tail -n 25 "$log" >&2
		die "$name could not be made; the whole log is $log"
	fi
	mv "$tmp" "$dir"
	say "$name: made in $(($(date +%s) - t0)) s"
}

# has_cargo: whether the host's cargo is new enough for our crates.
has_cargo() {
	local have
	have=$(cargo --version 2>/dev/null | awk '{ print $2 }') || true
	[ -n "$have" ] && printf '%s\n' 1.85 "$have" | sort -VC
}

# in_buildenv COMMAND ARGS...: run it in the build environment, in the checkout,
# with the cache's crates.
in_buildenv() {
	local env
	env=$("$VM/cache.sh" buildenv)
	mkdir -p "$CACHE/cargo-home"
	"$VM/in-env.sh" "$env" --bind "$TOP" "$TOP" --bind "$CACHE/cargo-home" /cargo --setenv CARGO_HOME /cargo \
		--chdir "$TOP" -- "$@"
}
