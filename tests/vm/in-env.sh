#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# in-env.sh ENV [bwrap options] -- COMMAND...: run a command in the build
# environment ENV. Only what is bound is seen; the folders usr and etc are
# the environment's and cannot be changed.
. "$(dirname "$0")/lib.sh"

env=$1
shift
opts=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
	opts+=("$1")
	shift
done
shift

user=()
[ "$(id -u)" = 0 ] || user=(--unshare-user --uid 0 --gid 0)

exec bwrap "${user[@]}" --unshare-pid --die-with-parent \
	--ro-bind "$env/usr" /usr --ro-bind "$env/etc" /etc --ro-bind "$env/var" /var \
	--symlink usr/bin /bin --symlink usr/sbin /sbin --symlink usr/lib /lib --symlink usr/lib64 /lib64 \
	--proc /proc --dev /dev --tmpfs /tmp --tmpfs /root \
	--ro-bind-try /etc/resolv.conf /etc/resolv.conf \
	--clearenv --setenv PATH /usr/sbin:/usr/bin --setenv HOME /root --setenv LC_ALL C.UTF-8 \
	"${opts[@]}" "$@"
