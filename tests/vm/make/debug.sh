#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# debug.sh DIR: the debug lane's kernel, built with clang: bzImage, its
# modules, and the tree (obj) that external modules are built against.
# With CHECK_ONLY=1 in the environment it stops after the configuration.
. "$(dirname "$0")/../lib.sh"

out=$1
env=$("$VM/cache.sh" buildenv)
src=$("$VM/cache.sh" source "${KERNELS[0]}")
mkdir -p "$out/obj"

nice -n 15 "$VM/in-env.sh" "$env" --ro-bind "$src" /kernel/src --bind "$out/obj" /kernel/obj --bind "$out" /out \
	--ro-bind "$VM/config/debug.config" /kernel/debug.config --setenv CHECK_ONLY "${CHECK_ONLY:-}" -- bash -eux <<'IN'
cd /kernel/obj
k=(make -C /kernel/src O=/kernel/obj LLVM=1)
"${k[@]}" tinyconfig
# SLUB_TINY must go first: the merge would otherwise drop KASAN.
/kernel/src/scripts/config --file .config -d SLUB_TINY
/kernel/src/scripts/kconfig/merge_config.sh -m -O . .config /kernel/src/kernel/configs/kvm_guest.config /kernel/debug.config >/dev/null
"${k[@]}" olddefconfig
lost=$(grep -E '^CONFIG_|^# CONFIG_.* is not set$' /kernel/debug.config | grep -vxF -f .config || true)
# An option that is off because it does not exist is off all the same.
lost=$(while read -r l; do
	case $l in
	'# CONFIG_'*) o=${l#\# } && grep -q "^${o%% *}=" .config && echo "$l" ;;
	?*) echo "$l" ;;
	esac
done <<<"$lost" || true)
if [ -n "$lost" ]; then
	echo "these settings of debug.config were dropped or changed by Kconfig:"
	echo "$lost"
	exit 1
fi
[ -z "$CHECK_ONLY" ] || exit 0
"${k[@]}" -j"$(nproc)" bzImage modules
"${k[@]}" INSTALL_MOD_PATH=/out/install modules_install
cp arch/x86/boot/bzImage /out/vmlinuz
cp System.map .config /out
IN
[ -n "${CHECK_ONLY:-}" ] && exit 0
mv "$out"/install/lib/modules/* "$out/modules"
rm -rf "$out/install" "$out/modules/build" "$out/modules/source"
# External modules need headers, metadata and Module.symvers, not objects.
find "$out/obj" \( -name '*.o' -o -name '*.a' -o -name '*.ko' -o -name '*.cmd' -o -name 'vmlinux*' \) \
	-not -path '*/rust/*' -not -path '*/scripts/*' -not -path '*/tools/*' -delete
[ -s "$out/vmlinuz" ] && [ -s "$out/obj/Module.symvers" ]
