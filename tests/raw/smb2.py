# SPDX-License-Identifier: GPL-2.0-only
"""The first messages of an SMB2 client, and what a server answers: bytes as in [MS-SMB2] 2.2.1.2 to
2.2.5."""

import struct

DIALECT_300, DIALECT_302, DIALECT_311 = 0x0300, 0x0302, 0x0311
PREAUTHENTICATION, ENCRYPTION = 1, 2
SHA_512, AES_128_GCM = 1, 2
RESPONSE = 1        # SMB2_FLAGS_SERVER_TO_REDIR
NEGOTIATE, SESSION_SETUP = 0, 1
MESSAGE_ID, SYSTEM_TIME, CREDITS = slice(24, 32), slice(104, 112), slice(14, 16)


def header(command, message_id, session_id=0, flags=0, credits=1):
    return struct.pack("<4sHHIHHIIQIIQ16s", b"\xfeSMB", 64, 0, 0, command, credits, flags, 0,
                       message_id, 0, 0, session_id, bytes(16))


def contexts(listed):
    """A list of negotiate contexts: (type, data)."""
    out = b""
    for kind, data in listed:
        out += bytes(-len(out) % 8) + struct.pack("<HHI", kind, len(data), 0) + data
    return out


def usual_contexts(salt):
    hashes = struct.pack("<HHH", 1, len(salt), SHA_512) + salt
    return [(PREAUTHENTICATION, hashes), (ENCRYPTION, struct.pack("<HH", 1, AES_128_GCM))]


def negotiate_request(guid, dialects=(DIALECT_302, DIALECT_311), listed=None, message_id=0):
    if listed is None:
        listed = usual_contexts(bytes(range(32)))
    body = struct.pack("<HHHHI16s", 36, len(dialects), 1, 0, 0x44, guid)
    offset = (64 + 36 + 2 * len(dialects) + 7) // 8 * 8
    body += struct.pack("<IHH", offset, len(listed), 0) if DIALECT_311 in dialects else bytes(8)
    body += struct.pack(f"<{len(dialects)}H", *dialects)
    message = header(NEGOTIATE, message_id) + body
    if DIALECT_311 in dialects:
        message += bytes(offset - len(message)) + contexts(listed)
    return message


def negotiate_response(dialect=DIALECT_311, salt=bytes(range(32, 64)), guid=bytes(range(16))):
    """A template."""
    listed = usual_contexts(salt) if dialect == DIALECT_311 else []
    body = struct.pack("<HHHH16sIIIIQQHHI", 65, 1, dialect, len(listed), guid, 0x44, 1 << 20, 1 << 20,
                       1 << 20, 0, 0, 128, 0, 128 if listed else 0)
    return header(NEGOTIATE, 0, flags=RESPONSE) + body + contexts(listed)


def session_setup_request(session_id, message_id=1, token=b"token"):
    body = struct.pack("<HBBIIHHQ", 25, 0, 1, 0, 0, 88, len(token), 0)
    return header(SESSION_SETUP, message_id, session_id) + body + token
