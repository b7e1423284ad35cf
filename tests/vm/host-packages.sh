#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Install what the lab needs on the host, only what is missing.
. "$(dirname "$0")/lib.sh"

missing() {
	local p
	while read -r p; do
		dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || echo "$p"
	done <"$VM/config/host-packages"
}

as_root() {
	if [ "$(id -u)" = 0 ]; then
		"$@"
	else
		sudo "$@"
	fi
}

install_missing() {
	local want log=$CACHE/logs/host-packages.log
	mapfile -t want < <(missing)
	[ ${#want[@]} -gt 0 ] || return 0
	say "host packages: installing ${want[*]}"
	command -v apt-get >/dev/null || die "no apt-get here; please install: ${want[*]}"
	if ! as_root apt-get install -y --no-install-recommends --simulate "${want[@]}" >"$log" 2>&1; then
		say "host packages: apt-get update first"
		as_root apt-get update >>"$log" 2>&1 || die "apt-get update failed; see $log"
	fi
	if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${want[@]}" >>"$log" 2>&1; then
		as_root apt-get update >>"$log" 2>&1 || true
		as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${want[@]}" >>"$log" 2>&1 ||
			{ tail -n 15 "$log" >&2; die "apt-get install failed; see $log"; }
	fi
}

# Quick way out, without a lock, when all is there.
mapfile -t left < <(missing)
[ ${#left[@]} -eq 0 ] || with_lock host-packages install_missing
