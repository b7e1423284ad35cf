#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# Files of many sizes go to the share and back: over a plain mount by RDMA,
# over a signed and an encrypted one inline; RoCE and iWARP, IPv4 and IPv6.
# Every request of 4 KiB and more on the plain mount is done by RDMA.
# lanes: stock
# timeout: 240
. /src/tests/cases/smbd-lib.sh

start_smbd
random /tmp/file $((5 << 20))
for way in plain sign seal seal-sign; do
	case $way in
	plain) share /mnt ;;
	sign) share /mnt sign ;;
	# Without sign, cifs.ko asks for encrypted answers of 1 MiB over RDMA although it takes no message
	# that long; with it, or with rsize=, it keeps to what it takes.
	seal) share /mnt seal,rsize=131072 ;;
	seal-sign) share /mnt seal,sign ;;
	esac
	reads=$(statistic rdma_reads) writes=$(statistic rdma_writes) trace=$(wc -l <$PRELOAD_LOG)
	for size in 1 4095 4096 4097 65536 1048575 1048577 5242880; do
		head -c $size /tmp/file >/tmp/part
		there_and_back /tmp/part /mnt $way-$size
	done
	reads=$(($(statistic rdma_reads) - reads)) writes=$(($(statistic rdma_writes) - writes))
	if [ $way = plain ]; then
		# 1 for each of 4096, 4097, 65536 and 1048575, 2 for 1048577, 5 for 5 MiB; 4097 and 1048577 may end with a
		# byte of their own, inline.
		[ $reads -ge 10 ] || fail "$reads RDMA READs for all files"
		[ $writes -ge 10 ] || fail "$writes RDMA WRITEs for all files"
		tail -n +$((trace + 1)) $PRELOAD_LOG >/tmp/trace
		for what in WRITE READ; do
			bytes=$(awk -v what=$what '$3 == what { sum += $5 } END { print sum + 0 }' /tmp/trace)
			[ "$bytes" -ge 7405567 ] || fail "$bytes bytes of ${what}s by RDMA"
		done
	else
		[ $reads = 0 ] && [ $writes = 0 ] || fail "RDMA on a mount with $way"
	fi
	lab umount /mnt
done

# The other ways to the same share.
random /tmp/file 3000000
for address in fd00:9:0::1 10.9.1.1 fd00:9:1::1; do
	case $address in
	*9:0::1) LAB_SERVER=$address share /mnt ;;
	*) share_iwarp /mnt $address ;;
	esac
	there_and_back /tmp/file /mnt "by-${address//:/-}"
	lab umount /mnt
done

# Dialect 3.0 knows no remote invalidation, 3.0.2 does.
for dialect in 3.0 3.0.2; do
	before=$(statistic remote_invalidations)
	share /mnt vers=$dialect
	there_and_back /tmp/file /mnt "vers-$dialect"
	lab umount /mnt
	invalidated=$(($(statistic remote_invalidations) - before))
	case $dialect in
	3.0) [ $invalidated = 0 ] || fail "$invalidated remote invalidations with 3.0" ;;
	*) [ $invalidated -ge 6 ] || fail "$invalidated remote invalidations with $dialect" ;;
	esac
done
stop_smbd
all_gone
