# SPDX-License-Identifier: GPL-2.0-only
"""Every field of every command, as docs/abi.md lays them out: at zero, at each limit, one past it, with
all bits, and a reserved one with each bit. The answer is what the page says by the field's values,
and the context works afterwards. (Fields of events are looked at as they come: world.Device.)"""

import os
import struct

import smb2
import usmbd_raw as raw
from errnos import WELL_FORMED
from world import PAGE, ROCE, Connection, Device, errno_of, name_of

OK, ENOENT, EFAULT, EINVAL = "no error", "ENOENT", "EFAULT", "EINVAL"

# The answer to a command whose fields all may be as they are, on a context that has nothing.
ANSWER = {name: ENOENT for name in PAGE.commands} | {
    "HELLO": OK, "NOP": OK, "SET_PARAMETERS": OK, "SET_NEGOTIATE_TEMPLATE": OK, "SET_SESSION_ID": OK,
    "SET_CLIENT_GUID": OK, "GET_MEMORY_PARAMETERS": OK, "LISTEN": OK, "LIST_CONNECTIONS": OK, "CONNECT": OK,
    "REGISTER_MEMORY": EFAULT, "UNREGISTER_MEMORY": EFAULT}


def get(record, field):
    return int.from_bytes(record[field.offset:field.offset + field.length], "little")


def put(record, field, value):
    out = bytearray(record)
    out[field.offset:field.offset + field.length] = value.to_bytes(field.length, "little")
    return bytes(out)


def padded(data):
    return data + bytes(-len(data) % 8)


def tail(name, record, flags):
    """The tail that the body announces; None if nothing could."""
    body = {field.name: get(record, field) for field in PAGE.commands[name].fields}
    if name == "SEND_PDU" and "RANGES" in flags:
        return raw.RANGE.pack(0, 0, 1, 0)
    if name == "SEND_PDU":
        # No more memory than needed to be one byte too long.
        return padded(bytes(min(body["payload_length"], (16 << 20) + 1)))
    if name in ("RDMA_READ", "RDMA_WRITE"):
        return bytes(16 * (body["range_count"] + body["descriptor_count"]))
    if name == "SET_NEGOTIATE_TEMPLATE":
        # Contexts at the end, so that a response may end anywhere.
        response = smb2.negotiate_response(smb2.DIALECT_302).ljust(4104, b"\0")
        length = min(body["response_length"], len(response))
        return bytes(8 * body["presumption_count"]) + padded(response[:length])
    return b""


def build(name, fixed, flags=()):
    """The record of this header and body, with the tail that these announce."""
    command = PAGE.commands[name]
    data = fixed[16:16 + command.length]
    data += tail(name, fixed, flags)
    bits = sum(command.flags[flag] for flag in flags)
    return raw.HEADER.pack(16 + len(data), command.opcode, bits, 0) + data


def address_allows(data):
    """docs/abi.md, "Address"."""
    fields = {f.name: int.from_bytes(data[f.offset:f.offset + f.length], "little")
              for f in PAGE.structures["Address"]}
    if not all(f.allows(fields[f.name]) for f in PAGE.structures["Address"]):
        return False
    unused = {0: data[16:], 2: data[20:], 10: b""}[fields["family"]]
    return not any(unused) and (fields["family"] == 10 or not fields["flow"] + fields["scope"])


def expected(name, record, flags):
    """The documented answer."""
    command = PAGE.commands[name]
    body = {field.name: get(record, field) for field in command.fields}
    for field in command.fields:
        if field.values == "address":
            if not address_allows(record[field.offset:field.offset + field.length]):
                return EINVAL
        elif not field.allows(get(record, field), flags):
            return EINVAL
    if name == "SET_NEGOTIATE_TEMPLATE" and not body["response_length"] and body["presumption_count"]:
        return EINVAL
    if name == "REGISTER_MEMORY" and body["address"] + body["length"] >= 1 << 64:
        return EINVAL
    if name == "CONNECT":
        peer, local = record[16:48], record[48:80]
        families = peer[:2], local[:2]
        if families[0] == b"\0\0" or not any(peer[16:]) or any(local[2:4]) or (
                families[1] not in (b"\0\0", families[0])):
            return EINVAL
    if name == "QUERY_STATISTICS" and body["connection"] == 0:
        return OK
    return ANSWER[name]


def undo(device, name, record):
    """What was taken is not in the way of the next one."""
    if name in ("SET_SESSION_ID", "SET_CLIENT_GUID"):
        clear = PAGE.commands["CLEAR" + name[3:]].opcode
        device.write(raw.record(clear, record[16:]))
    elif name == "LISTEN":
        status, listener = struct.unpack("<II", device.expect(raw.LISTENING)[2])
        if status == 0:
            device.write(raw.close_listener(listener))
            device.expect(raw.LISTENER_CLOSED)
    elif name == "HELLO":
        device.write(raw.hello())
    elif name == "CONNECT":
        device.expect(raw.CONNECTED)


def try_one(device, name, fixed, flags=()):
    wanted = expected(name, fixed, flags)
    record = build(name, fixed, flags)
    got = name_of(errno_of(lambda: os.write(device.fd, record)))
    shown = record[:64].hex()
    assert got == wanted, f"{got} and not {wanted}: {shown}"
    if got == OK:
        undo(device, name, record)
    device.works()


def parts(name, field):
    """The field, or where it is a structure of the page's, the fields of that."""
    if field.values != "address":
        return [field]
    out = []
    for part in PAGE.structures["Address"]:
        part = type(part)(part.offset + field.offset, part.length, part.name, part.values)
        out.append(part)
    return out


def variants(name):
    """Sets of flags under which a command is tried."""
    if name == "SEND_PDU":
        return [(), ("INVALIDATE",), ("RANGES",), ("QUIET", "INVALIDATE", "RANGES")]
    return [()] + [(flag,) for flag in PAGE.commands[name].flags]


def check_field(name, field):
    device = Device()
    for flags in variants(name):
        for part in parts(name, field):
            for value in part.interesting(flags):
                try_one(device, name, put(WELL_FORMED[name], part, value), flags)
    device.close()


def check_flags(name):
    """Each bit of the header's flags alone."""
    command = PAGE.commands[name]
    device = Device()
    for bit in range(16):
        flag = next((f for f, value in command.flags.items() if value == 1 << bit), None)
        if flag:
            try_one(device, name, WELL_FORMED[name], (flag,))
            continue
        record = bytearray(WELL_FORMED[name])
        record[6:8] = struct.pack("<H", 1 << bit)
        got = name_of(errno_of(lambda r=record: os.write(device.fd, r)))
        assert got == EINVAL, f"flag bit {bit}: {got}"
        device.works()
    device.close()


def dirty(record, start, end):
    """The record with each bit of these bytes set that is not."""
    for bit in range(8 * start, 8 * end):
        out = bytearray(record)
        out[bit // 8] ^= 1 << bit % 8
        yield bytes(out)


def check_padding():
    """What stands behind a payload is zero."""
    device = Device()
    template = build("SET_NEGOTIATE_TEMPLATE", put(
        WELL_FORMED["SET_NEGOTIATE_TEMPLATE"], PAGE.commands["SET_NEGOTIATE_TEMPLATE"].fields[1], 131))
    for record in dirty(template, len(template) - 5, len(template)):
        assert name_of(errno_of(lambda r=record: os.write(device.fd, r))) == EINVAL, record[-8:].hex()
    device.write(template)
    device.works()
    device.close()
    with Connection() as connection:
        message = raw.send_pdu(connection.number, b"hello")
        for record in dirty(message, len(message) - 3, len(message)):
            got = errno_of(lambda r=record: os.write(connection.device.fd, r))
            assert name_of(got) == EINVAL, record[-8:].hex()
        connection.device.write(message)
        assert connection.peer.receive() == b"hello"


def check_presumptions():
    device = Device()
    record = raw.set_negotiate_template(0, smb2.negotiate_response(), [(1, 1), (2, raw.ANY_ID)])
    for field in PAGE.structures["Presumption"]:
        for number in range(2):
            at = type(field)(32 + 8 * number + field.offset, field.length, field.name, field.values)
            for value in field.interesting():
                got = name_of(errno_of(lambda r=put(record, at, value): os.write(device.fd, r)))
                assert got == (OK if field.allows(value) else EINVAL), f"{field}: {value:#x}: {got}"
                device.works()
    device.close()


def check_ranges():
    """Fields of ranges, where they may stand; what is not the caller's memory is EFAULT."""
    limits = {"buffer": [1, 63, 64, 0x7fffffff, 0x80000000, 0xffffffff],
              "offset": [(1 << 20) - 7, 1 << 20, 0xffffffff],
              "length": [0, (1 << 20) + 1]}
    with Connection() as connection:
        device, number = connection.device, connection.number
        area = device.map_area(1)
        area[0] = 1
        remote = [(0x1000, 1, 0xffffffff)]
        records = [raw.send_ranges(number, [(0, 0, 8)])]
        records += [raw.rdma(opcode, number, [(0, 0, 8)], remote)
                    for opcode in (raw.RDMA_READ, raw.RDMA_WRITE)]
        for record in records:
            for field in PAGE.structures["Range"]:
                place = type(field)(32 + field.offset, field.length, field.name, field.values)
                values, wanted = limits.get(field.name), EFAULT
                if field.is_reserved:
                    values, wanted = field.interesting()[1:], EINVAL
                elif field.name == "length" and record is records[0]:
                    # A message's ranges have to add up besides.
                    continue
                for value in values:
                    wrong = put(record, place, value)
                    got = name_of(errno_of(lambda w=wrong: os.write(device.fd, w)))
                    assert got == wanted, f"{field}: {value:#x}: {got}: {wrong.hex()}"
        for length in (7, 9):
            wrong = raw.send_ranges(number, [(0, 0, 8)], length=length)
            assert name_of(errno_of(lambda w=wrong: os.write(device.fd, w))) == EINVAL, "the sum"
        device.works()
        area.close()


def checks():
    """(what, function) of all of this."""
    for name, command in PAGE.commands.items():
        yield f"{name} flags", lambda n=name: check_flags(n)
        for field in command.fields:
            label = f"{name} {field.name} at {field.offset}"
            yield label, lambda n=name, f=field: check_field(n, f)
    yield "padding", check_padding
    yield "presumptions", check_presumptions
    yield "ranges", check_ranges
