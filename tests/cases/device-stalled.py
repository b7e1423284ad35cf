#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# A device goes in time, also while write() waits for memory that does not come.
# lanes: stock
# kernels: default
# timeout: 60
"""userfaultfd() plays the file server that does not answer: the payload stands on a page of its."""

import errno
import os
import struct
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(__file__))
import lib  # noqa: E402
from lib import check, raw  # noqa: E402
from stalling import PAGE, Stalling  # noqa: E402

# Bytes of memory that is there.
BEFORE = 8 * PAGE


def stalled(name, kind, netdev, where, length, last):
    """A message of so many bytes, of whose record the last so many do not come."""
    server = lib.Server(where)
    peer = lib.peer("hold", where, "--seconds", 100 * lib.SLOW, "--end")
    connection = server.accept_one()
    pages = Stalling(BEFORE)
    record = raw.send_pdu(connection, bytes(length))
    at = BEFORE - (len(record) - last)
    pages.memory[at:BEFORE] = record[:BEFORE - at]
    result = []

    def write():
        # The view keeps Python from touching the page.
        try:
            result.append(os.writev(server.device.fd, [memoryview(pages.memory)[at:at + len(record)]]))
        except OSError as error:
            result.append(error.errno)

    writer = threading.Thread(target=write)
    writer.start()
    pages.wait()
    begin = time.monotonic()
    going = subprocess.Popen(["rdma", "link", "del", name])
    gone = lib.until(lambda: going.poll() is not None, 20)
    check(f"{name} goes while {length} bytes do not come ({time.monotonic() - begin:.1f} s)", gone)
    pages.let_come()
    writer.join()
    check(f"rdma link del: {going.wait()}", going.returncode == 0)
    check(f"the write: {result}", result == [errno.ENOTCONN])
    _, _, body = server.device.expect(raw.DISCONNECTED)
    check("DeviceRemoved", struct.unpack_from("<QI", body) == (connection, 3))
    subprocess.run(["rdma", "link", "add", name, "type", kind, "netdev", netdev], check=True)
    lib.ended_well("the peer", peer)
    server.device.close()


for device in (("rxe0", "rxe", "veth0", lib.ROCE), ("siw0", "siw", "veth2", lib.IWARP)):
    # One PDU, some in one buffer, many buffers; only the padding.
    for message, behind in ((1000, 104), (3000, 104), (20000, 104), (1001, 4)):
        stalled(*device, message, behind)
check("connections stay", lib.until(lambda: lib.statistics()["connections"] == 0))
lib.finish()
