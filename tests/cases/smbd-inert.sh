#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# The preload library changes nothing in other programs that inherit it, nor in
# an smbd that is not asked for SMB Direct; and where SMB Direct is not to be had,
# one line says why, and smbd serves TCP.
# kernels: default
# timeout: 120
. /src/tests/cases/smbd-lib.sh

# Other programs may bind the port, and never open the device.
LD_PRELOAD=$MODULE USMBD_PRELOAD_LOG=debug strace -f -o /tmp/trace python3 - <<'END' || fail "a program that inherits it"
import socket
listener = socket.create_server(("127.0.0.1", 5445))
client = socket.create_connection(("127.0.0.1", 5445))
server, _ = listener.accept()
client.sendall(b"x" * 100000)
assert len(server.recv(100000, socket.MSG_WAITALL)) == 100000
END
! grep -q 'usmbd"' /tmp/trace || fail "it opened the device in python3"

# It stands in front of socket calls, and has nothing else that a program could meet.
python3 - $MODULE <<'END' || fail "exported symbols"
import ctypes, sys
library = ctypes.CDLL(sys.argv[1])
for name in ("accept", "recvmsg", "sendmsg", "epoll_ctl"):
    assert hasattr(library, name), name
for name in ("usmbd_open", "usmbd_send", "rust_eh_personality"):
    assert not hasattr(library, name), name
END

# An smbd whose operator turned it off.
USMBD_PRELOAD_PORT=0
export USMBD_PRELOAD_PORT
lsof_device() { ls -l /proc/[0-9]*/fd 2>/dev/null | grep -q /dev/usmbd; }
sed 's/^USMBD_PRELOAD_PORT=.*/USMBD_PRELOAD_PORT=0/' /src/tests/vm/guest/preload.env >/tmp/off.env
env $(grep -v '^#' /tmp/off.env) LD_PRELOAD=$MODULE setsid smbd -D -s /src/tests/vm/guest/smb.conf
until_true 30 pgrep -x smbd || fail "smbd does not start"
sleep 1
lsof_device && fail "it opened the device although it is off"
lab smbd stop
unset USMBD_PRELOAD_PORT

# says TEXT: one line of the log has it, and TCP works.
says() {
	grep -q -- "$1" $PRELOAD_LOG || { cat $PRELOAD_LOG; fail "no line says: $1"; }
	lab mount tcp /mnt || fail "TCP does not work either"
	[ -d /mnt ] && ls /mnt >/dev/null || fail "TCP does not work either"
	lab umount /mnt
	lab smbd stop
}

# No module.
rmmod usmbd || fail "rmmod"
rm -f $PRELOAD_LOG
lab smbd start || fail "smbd does not start without the module"
says 'modprobe usmbd'

# No permission: root without its capabilities and a node that is not its own.
insmod /build/usmbd.ko || fail "insmod"
rm -f $PRELOAD_LOG
chown nobody /dev/usmbd
env $(grep -v '^#' /src/tests/vm/guest/preload.env) LD_PRELOAD=$MODULE \
	setpriv --bounding-set=-dac_override,-dac_read_search --inh-caps=-all setsid smbd -D -s /src/tests/vm/guest/smb.conf
until_true 30 pgrep -x smbd || fail "smbd does not start without permission"
sleep 1
chown root /dev/usmbd
says 'may not be opened'

# No device yet: the log says where to look, and a device that comes is taken up.
for d in rxe0 siw0; do rdma link del $d; done
client rdma link del rxe1
client rdma link del siw1
rm -f $PRELOAD_LOG
lab smbd start || fail "smbd does not start without RDMA devices"
grep -q 'rdma link' $PRELOAD_LOG || { cat $PRELOAD_LOG; fail "no line says: rdma link"; }
rdma link add rxe0 type rxe netdev veth0
client rdma link add rxe1 type rxe netdev veth1
rdma link add siw0 type siw netdev veth2
client rdma link add siw1 type siw netdev veth3
random /tmp/file 100000
until_true 20 within 30 lab mount rdma /mnt cache=none || fail "the new device is not used"
there_and_back /tmp/file /mnt new-device
lab umount /mnt
stop_smbd
all_gone
