#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# A wrong record is refused with its errno, and changes nothing: the context works afterwards.
# lanes: stock debug
# timeout: 60
"""Bad input: docs/abi.md, "Errors"."""

import errno
import fcntl
import os
import struct
import sys

sys.path.insert(0, "/src/tests/raw")
import usmbd_raw as raw

U64 = struct.Struct("<Q")


def header(length, opcode, flags=0):
    return raw.HEADER.pack(length, opcode, flags, 0)


def listen(**more):
    return raw.listen(**more)


DIRTY_ADDRESS = bytearray(raw.listen("10.9.0.1"))
DIRTY_ADDRESS[16 + 31] = 1
LISTEN_MODE = bytearray(raw.listen())
LISTEN_MODE[16 + 34] = 7
FAMILY = bytearray(raw.listen())
FAMILY[16] = 9
PADDING = bytearray(raw.send_pdu(1, b"abc"))
PADDING[-1] = 1
RANGE = (0, 0, 4096)
DESCRIPTOR = (0x1000, 1, 4096)

EINVAL = [
    ("nothing but half a header", bytes(8)),
    ("a header of zeroes", bytes(16)),
    ("an unknown opcode", header(16, 0x7777)),
    ("an event's opcode", header(16, raw.NOP_DONE)),
    ("an unknown flag", header(16, raw.NOP, 0x8000)),
    ("a flag of another command", header(16, raw.NOP, raw.QUIET)),
    ("a length below the header's", header(8, raw.NOP)),
    ("a length that is no multiple of 8", header(20, raw.NOP) + bytes(4)),
    ("a length below the body's", header(24, raw.HELLO) + bytes(8)),
    ("a length above the body's", header(24, raw.NOP) + bytes(8)),
    ("a length past what was written", header(32, raw.HELLO) + bytes(8)),
    ("HELLO with version zero", raw.hello(version=0)),
    ("HELLO with a reserved field set", raw.record(raw.HELLO, struct.pack("<IIQ", 1, 1, 0))),
    ("SET_PARAMETERS with a reserved field set", raw.set_parameters(reserved=1)),
    ("too many receive credits", raw.set_parameters(receive_credit_max=256)),
    ("too many send credits", raw.set_parameters(send_credit_target=256)),
    ("a send size too small", raw.set_parameters(max_send_size=127)),
    ("a send size too large", raw.set_parameters(max_send_size=4097)),
    ("a receive size too small", raw.set_parameters(max_receive_size=127)),
    ("a receive size too large", raw.set_parameters(max_receive_size=4097)),
    ("a fragmented size too small", raw.set_parameters(max_fragmented_recv_size=131071)),
    ("a fragmented size too large", raw.set_parameters(max_fragmented_recv_size=(16 << 20) + 1)),
    ("a transfer size too small", raw.set_parameters(max_read_write_size=4095)),
    ("a transfer size too large", raw.set_parameters(max_read_write_size=(16 << 20) + 1)),
    ("a keepalive too short", raw.set_parameters(keepalive_interval=999)),
    ("a keepalive too long", raw.set_parameters(keepalive_interval=3600001)),
    ("an address with dirt behind it", bytes(DIRTY_ADDRESS)),
    ("an unknown address family", bytes(FAMILY)),
    ("an unknown mode", bytes(LISTEN_MODE)),
    ("a backlog too long", raw.listen(backlog=4097)),
    ("CLOSE_LISTENER with a reserved field set", raw.record(raw.CLOSE_LISTENER, struct.pack("<II", 1, 1))),
    ("an empty message", raw.send_pdu(1, b"")),
    ("a token without its flag", raw.record(raw.SEND_PDU, struct.pack("<QII", 1, 8, 5) + bytes(8))),
    ("a payload shorter than said", raw.record(raw.SEND_PDU, struct.pack("<QII", 1, 9, 0) + bytes(8))),
    ("no ranges", raw.rdma(raw.RDMA_READ, 1, [], [DESCRIPTOR])),
    ("no descriptors", raw.rdma(raw.RDMA_READ, 1, [RANGE], [])),
    ("too many ranges", raw.rdma(raw.RDMA_READ, 1, [RANGE] * 65, [DESCRIPTOR])),
]
ENOENT = [
    ("SEND_PDU on no connection", raw.send_pdu(12345, b"x")),
    ("RDMA_READ on no connection", raw.rdma(raw.RDMA_READ, 12345, [RANGE], [DESCRIPTOR])),
    ("RDMA_WRITE on no connection", raw.rdma(raw.RDMA_WRITE, 12345, [RANGE], [DESCRIPTOR])),
    ("DISCONNECT of no connection", raw.disconnect(12345)),
    ("ACCEPT of no ticket", raw.accept(bytes(16))),
    ("REJECT of no ticket", raw.record(raw.REJECT, bytes(16))),
    ("CLOSE_LISTENER of no listener", raw.record(raw.CLOSE_LISTENER, struct.pack("<II", 99, 0))),
]

failures = 0


def check(what, good):
    global failures
    if not good:
        failures += 1
        print("FAILED:", what)


def refused(device, what, record, number):
    try:
        taken = os.write(device.fd, record)
        check(f"{what}: {taken} bytes were taken", False)
    except OSError as error:
        check(f"{what}: {errno.errorcode[error.errno]} and not {errno.errorcode[number]}",
              error.errno == number)
    # Refused behind a good one, it ends the batch; and nothing is remembered of it.
    good = raw.record(raw.NOP, user_data=1)
    check(f"{what}: behind a good record", os.write(device.fd, good + record + good) == len(good))
    check(f"{what}: the good record's event", device.expect(raw.NOP_DONE)[1] == 1)
    device.write(raw.record(raw.NOP, user_data=2))
    check(f"{what}: the context afterwards", device.expect(raw.NOP_DONE)[1] == 2)


device = raw.Device()
for number, table in ((errno.EINVAL, EINVAL), (errno.ENOENT, ENOENT)):
    for what, record in table:
        refused(device, what, record, number)

# Within the limits, all of it is taken, and makes no event.
device.write(raw.set_parameters(receive_credit_max=255, send_credit_target=255, max_send_size=4096,
                            max_receive_size=4096, max_fragmented_recv_size=16 << 20,
                            max_read_write_size=16 << 20, keepalive_interval=3600000))
device.write(raw.set_parameters())

for name, call in (("ioctl", lambda: fcntl.ioctl(device.fd, 0x5411, bytes(8))),
                   ("lseek", lambda: os.lseek(device.fd, 0, os.SEEK_SET)),
                   ("pread", lambda: os.pread(device.fd, 16, 0)),
                   ("pwrite", lambda: os.pwrite(device.fd, raw.record(raw.NOP), 0))):
    try:
        call()
        check(f"{name} worked", False)
    except OSError as error:
        expected = errno.ENOTTY if name == "ioctl" else errno.ESPIPE
        check(f"{name}: {errno.errorcode[error.errno]}", error.errno == expected)

for name, offset, length, number in (("longer than the area", 0, 65 << 20, errno.EINVAL),
                                     ("not at its start", 1 << 20, 1 << 20, errno.EINVAL)):
    import mmap
    try:
        mmap.mmap(device.fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset)
        check(f"a mapping {name} worked", False)
    except OSError as error:
        check(f"a mapping {name}: {errno.errorcode[error.errno]}", error.errno == number)
try:
    mmap.mmap(device.fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE,
              offset=raw.STATUS_PAGE_OFFSET)
    check("a status page to write worked", False)
except OSError as error:
    check(f"a status page to write: {errno.errorcode[error.errno]}", error.errno == errno.EPERM)
for what, flags, mode, length, number in (("private", mmap.MAP_PRIVATE, os.O_RDONLY, 4096, errno.EPERM),
                                          ("of two", mmap.MAP_SHARED, os.O_RDONLY, 8192, errno.EINVAL),
                                          ("of a reader", mmap.MAP_SHARED, os.O_RDONLY, 4096, 0)):
    fd = os.open("/dev/usmbd", mode)
    try:
        mmap.mmap(fd, length, flags, mmap.PROT_READ, offset=raw.STATUS_PAGE_OFFSET).close()
        got = 0
    except OSError as error:
        got = error.errno
    check(f"a status page, {what}: {errno.errorcode.get(got, 'mapped')}", got == number)
    os.close(fd)
check("the status page's version", struct.unpack_from("<I", device.map_status_page())[0] == raw.VERSION)
device.close()
print(f"{len(EINVAL) + len(ENOENT)} wrong records, {failures} failures")
sys.exit(failures != 0)
