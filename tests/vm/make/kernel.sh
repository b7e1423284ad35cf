#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# kernel.sh DIR KREL: a tree prepared for external modules, Rust ones too, of
# the distribution's kernel KREL, which is not built itself. The headers
# package has no Rust metadata: it comes out of the same source, .config and
# compilers again.
. "$(dirname "$0")/../lib.sh"

obj=$1 krel=$2
env=$("$VM/cache.sh" buildenv)
debs=$("$VM/cache.sh" debs "$krel")
src=$("$VM/cache.sh" source "$krel")
cp "$debs/config" "$obj/.config"

"$VM/in-env.sh" "$env" --ro-bind "$src" /kernel/src --bind "$obj" /kernel/obj \
	--ro-bind "$debs/config" /kernel/config --setenv KREL "$krel" -- bash -eux <<'IN'
cd /kernel/obj
# The peers, off in the distribution: all of them modules of their own.
/kernel/src/scripts/config --file .config -e CIFS_SMB_DIRECT -e SMB_SERVER_SMBDIRECT -m RDMA_SIW
# Signing keys are for the distribution's own build.
make -C /kernel/src O=/kernel/obj KERNELRELEASE="$KREL" olddefconfig
# A compiler or pahole that is not the distribution's makes Kconfig drop
# options without a word, and the module is refused when it is loaded.
diff <(grep -v CC_VERSION_TEXT /kernel/config | grep '^CONFIG_\|is not set' | sort) \
	<(grep '^CONFIG_\|is not set' .config | grep -v CC_VERSION_TEXT | sort) >config.diff || true
unexpected=$(grep '^[<>]' config.diff |
	grep -v -E 'CONFIG_(CIFS_SMB_DIRECT|SMB_SERVER_SMBDIRECT|RDMA_SIW|SMBDIRECT|SMB_COMMON_SMBDIRECT)\b' || true)
if [ -n "$unexpected" ]; then
	echo "the prepared .config is not the distribution's:"
	echo "$unexpected"
	exit 1
fi
grep -qx CONFIG_RUST=y .config
make -C /kernel/src O=/kernel/obj KERNELRELEASE="$KREL" -j"$(nproc)" prepare modules_prepare
[ "$(cat include/config/kernel.release)" = "$KREL" ]
IN
cp "$debs/Module.symvers" "$obj/Module.symvers"
