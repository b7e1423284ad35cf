#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Print the Debian mirror to use: USMBD_MIRROR, or the host's own.
. "$(dirname "$0")/lib.sh"

mirror=${USMBD_MIRROR:-}
# shellcheck disable=SC2016
[ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
	awk '$1 == "Debian" && $2 !~ /security/ { print $3; exit }')
# Before the first "apt-get update" apt does not know an origin.
# shellcheck disable=SC2016
[ -n "$mirror" ] || mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/*$') ||
	die "this host has no Debian mirror in its apt sources: say USMBD_MIRROR=URL"
echo "${mirror%/}"
