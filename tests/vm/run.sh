#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# run.sh SCRIPT [ARGS...]: boot a fresh guest, run SCRIPT in it as root, show
# what it prints, and end with its exit status. From the environment:
#   KREL     the stock kernel (7.3.4+deb13 if nothing is said)
#   LANE     stock, or debug (the kernel with the checkers)
#   TIMEOUT  seconds that the script may take (600)
#   RUN      a name for the run's folder below build/vm/ (else a fresh one)
#   CMDLINE  more for the kernel's command line
#   QEMU     more options for QEMU
#   BOOT_TIMEOUT  seconds for the boot (400; debug lane: 900); then it is tried again
#   COVERAGE something: with a module that records what of it runs
#   COUNT    a plugin that counts instructions (tests/bench/count): one processor, whose
#            nanoseconds are its instructions; what was counted is in the run's folder
# The run's folder gets dmesg (the kernel's log), console (what the kernel said
# on its console), output, and out/, which is /out in the guest.
. "$(dirname "$0")/lib.sh"

[ $# -gt 0 ] || die "which script? make vm SCRIPT=path [ARGS=...]"
script=$1
shift
lane=${LANE:-stock}
kernel=$(lane_kernel "$lane" "${KREL:-}")
timeout=${TIMEOUT:-600}
[ -f "$script" ] || script=$TOP/$script
[ -f "$script" ] || die "no such script: $1"
script=$(realpath "$script")

boot=$("$VM/cache.sh" boot "$kernel")
rootfs=$("$VM/cache.sh" rootfs)
read -ra accel <<<"$("$VM/kvm.sh" "$boot")"

mkdir -p "$BUILD/vm"
if [ -n "${RUN:-}" ]; then
	run=$BUILD/vm/$RUN
	rm -rf "$run"
else
	run=$(mktemp -d "$BUILD/vm/$(date +%H%M%S)-XXXX")
fi
mkdir -p "$run/out/.lab" "$run/tmp"
ln -sfn "$(basename "$run")" "$BUILD/vm/last"

case $script in
"$TOP"/*) inside=/src/${script#"$TOP"/} ;;
*)
	cp "$script" "$run/out/.lab/script"
	chmod +x "$run/out/.lab/script"
	inside=/out/.lab/script
	;;
esac
printf '%s\0' "$inside" "$@" >"$run/out/.lab/command"
cat >"$run/out/.lab/env" <<-END
	export LANE=$lane KREL=$(cat "$boot/release") LAB_KERNEL=$kernel${COVERAGE:+-coverage} LAB_TIMEOUT=$timeout
END
# Variables named USMBD_TEST_* and USMBD_BENCH_* go along.
export -p | sed -n 's/^declare -x \(USMBD_\(TEST\|BENCH\)_[A-Za-z0-9_]*=.*\)/export \1/p' >>"$run/out/.lab/env"

append="console=ttyS0 loglevel=6 panic=-1 rcupdate.rcu_cpu_stall_timeout=180 no_timer_check"
append+=" random.trust_cpu=on mitigations=off systemd.unit=none"
memory=2G
if [ "$lane" = debug ]; then
	append+=" kmemleak=on page_owner=on"
	# With the checkers the ACPI interpreter takes half a minute for each PCI
	# device's interrupt routing, which nobody needs: virtio has MSI-X.
	append+=" pci=noacpi"
	# identify_cpu() clears the boot processor's features, X86_FEATURE_LA57 among them, and
	# fills them in again: KASAN takes an interrupt's accesses meanwhile for wild ones, since
	# KASAN_SHADOW_START depends on it.
	append+=" no5lvl"
	memory=3G
fi

processors=2
if [ -n "${COUNT:-}" ]; then
	accel=(-accel "tcg,thread=single" -cpu max -icount "shift=0,sleep=off" -plugin "$COUNT,out=$run/count")
	processors=1
	# Long messages to the console would be counted, too.
	append+=" quiet"
fi

read -ra more <<<"${QEMU:-}"
status_file=$run/out/.lab/status
rel=${run#"$TOP"/}

# A guest that says nothing of itself in so many seconds will not come any more.
patience=${BOOT_TIMEOUT:-$([ "$lane" = debug ] && echo 900 || echo 400)}

# watch_boot: ends such a guest, and leaves a mark.
watch_boot() {
	local end=$((SECONDS + patience))
	while [ ! -e "$run/out/.lab/alive" ]; do
		if [ $SECONDS -ge $end ]; then
			touch "$run/silent"
			kill "$(cat "$run/tmp/pid")"
			return
		fi
		sleep 1
	done
}

boot_guest() {
	TMPDIR=$run/tmp timeout -k 5 $((timeout + 240)) qemu-system-x86_64 \
		-pidfile "$run/tmp/pid" "${accel[@]}" -smp $processors -m "$memory" -display none -no-reboot -nodefaults \
		-kernel "$boot/vmlinuz" -initrd "$boot/initrd.gz" -append "$append ${CMDLINE:-}" \
		-drive file="$rootfs/rootfs.img",format=raw,if=virtio,snapshot=on,cache=unsafe \
		-drive file="$boot/modules.img",format=raw,if=virtio,readonly=on \
		-virtfs local,path="$TOP",mount_tag=src,security_model=none,readonly=on,multidevs=remap \
		-virtfs local,path="$run/out",mount_tag=out,security_model=none,multidevs=remap \
		-device virtio-rng-pci \
		-serial file:"$run/console" \
		-device virtio-serial-pci -chardev file,id=output,path=/dev/stdout -device virtserialport,chardev=output,name=usmbd.output \
		"${more[@]}" </dev/null 2>"$run/qemu.log" | tee "$run/output"
	return "${PIPESTATUS[0]}"
}

# Seen once each: a kernel stood still where it finds its PCI devices; and one died of an
# int3 in sched_clock_cpu(), which it was patching.
for try in 1 2 3; do
	qemu=0
	watch_boot &
	watcher=$!
	boot_guest || qemu=$?
	kill $watcher 2>/dev/null || true
	wait $watcher 2>/dev/null || true
	if [ -s "$run/out/.lab/unwell" ]; then
		mv "$run/out/.lab/unwell" "$run/unwell.$try"
		rm -f "$status_file"
		why="the kernel complained before anything of ours was loaded ($rel/unwell.$try)"
	elif [ -e "$run/silent" ]; then
		mv "$run/silent" "$run/silent.$try"
		cp "$run/console" "$run/console.$try"
		why="nothing came of it in $patience s ($rel/console.$try)"
	elif [ ! -e "$run/out/.lab/alive" ] && [ ! -e "$status_file" ]; then
		cp "$run/console" "$run/console.$try"
		why="the kernel ended before anything of ours was loaded ($rel/console.$try)"
	else
		break
	fi
	say "vm: boot $try of at most 3: $why"
done

rm -rf "$run/tmp"
[ ! -f "$run/out/.lab/dmesg" ] || mv "$run/out/.lab/dmesg" "$run/dmesg"
[ -f "$run/dmesg" ] || cp "$run/console" "$run/dmesg"

if [ -s "$run/out/.lab/coverage" ]; then
	kept=$BUILD/coverage/$(hash_of "$BUILD/$kernel-coverage/usmbd.ko")
	mkdir -p "$kept"
	cp "$run/out/.lab/coverage" "$(mktemp "$kept/seen.XXXXXX")"
fi

# What cases did how often; see tally.sh.
if [ -f "$run/out/tally" ]; then
	sed "s/^/$kernel $(git -C "$TOP" describe --always --dirty 2>/dev/null || echo unknown) /" "$run/out/tally" >>"$BUILD/tally"
fi

bad=0
if ! "$VM/guest/splats" <"$run/dmesg" >"$run/splats" || ! "$VM/guest/splats" <"$run/console" >>"$run/splats"; then
	say "vm: the kernel complained (all of its log: $rel/dmesg):"
	sed 's/^/    /' "$run/splats" | head -n 120 >&2
	bad=1
fi
tainted=$(cat "$run/out/.lab/tainted" 2>/dev/null || echo 0)
# Out of tree (O, 4096) and unsigned (E, 8192) are what we are.
if [ $((tainted & ~(4096 | 8192))) != 0 ]; then
	say "vm: the kernel is tainted ($tainted), by more than an unsigned module from outside"
	bad=1
fi
if [ ! -f "$status_file" ]; then
	if [ "$qemu" = 124 ] || [ "$qemu" = 137 ]; then
		say "vm: the guest did not end within $((timeout + 240)) s; see $rel/console"
	else
		say "vm: the guest ended without a status (qemu: $qemu); see $rel/console and $rel/qemu.log"
	fi
	tail -n 15 "$run/console" "$run/qemu.log" >&2
	exit 125
fi
status=$(cat "$status_file")
[ "$status" != 124 ] || say "vm: the script did not end within $timeout s; blocked tasks stand in $rel/dmesg"
[ "$status" = 0 ] && [ $bad = 1 ] && status=99
exit "$status"
