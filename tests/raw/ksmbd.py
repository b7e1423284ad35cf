#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""ksmbd.py ADDRESS: CONNECT to a real server, and negotiate SMB2 with it, in the client's network."""

import os
import struct
import sys

import usmbd_raw as raw

DIALECTS = (0x0202, 0x0210, 0x0300, 0x0302)

# NEGOTIATE, [MS-SMB2] 2.2.3.
header = b"\xfeSMB" + struct.pack("<H8xH48x", 64, 1)
request = header + struct.pack("<HHHHI16sQ", 36, len(DIALECTS), 1, 0, 0, b"usmbd-raw guid!!", 0)
request += struct.pack("<4H", *DIALECTS)

os.setns(os.open("/run/netns/client", os.O_RDONLY), os.CLONE_NEWNET)
device = raw.Device()
device.write(raw.connect(sys.argv[1]))
_, _, body = device.expect(raw.CONNECTED, 60)
connection, status, fabric = struct.unpack_from("<QII", body)
assert status == 0, f"CONNECT: status {status}"
sizes = struct.unpack_from("<5IHH", body, 16)
device.write(raw.send_pdu(connection, request, flags=raw.QUIET))
_, _, body = device.expect(raw.PDU_RECEIVED)
_, total, offset, length, _ = struct.unpack_from("<QIIII", body)
answer = body[24:24 + length]
assert (offset, length) == (0, total) and len(answer) >= 128, (offset, length, total)
status, = struct.unpack_from("<I", answer, 8)
dialect, = struct.unpack_from("<H", answer, 68)
assert answer[:4] == b"\xfeSMB" and status == 0, answer.hex()
device.write(raw.disconnect(connection))
device.expect(raw.DISCONNECTED)
print(f"fabric {fabric}, negotiated {sizes}, dialect {dialect >> 8}.{dialect >> 4 & 15}.{dialect & 15}")
