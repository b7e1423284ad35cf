# SPDX-License-Identifier: GPL-2.0-only
"""docs/abi.md as data: what the scripts here check the device against.

Commands and events with their numbers, flags, layouts and errnos; the operations of 2013. A field's
*values* are what the page says it may have.
"""

import os
import re

PATH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/abi.md")


class Field:
    """One row of a layout table."""

    def __init__(self, offset, length, name, values):
        self.offset, self.length, self.name, self.values = offset, length, name, values

    def __repr__(self):
        return f"{self.name} at {self.offset}"

    @property
    def is_reserved(self):
        return self.name == "reserved"

    @property
    def most(self):
        """The largest number that it has room for."""
        return (1 << 8 * self.length) - 1

    def ranges(self, flags=()):
        """The values that it may have, as (first, last); `flags` are the names of those set."""
        default, *others = self.values.split("; ")
        for other in others:
            flag, values = other.split(": ")
            if flag in flags:
                default = values
        return self._parse(default)

    def _parse(self, values):
        if values in ("any", "address"):
            return [(0, self.most)]
        if values == "not 0":
            return [(1, self.most)]
        out = []
        for value in values.split(", "):
            first, _, last = value.partition("..=")
            out.append((int(first), int(last or first)))
        return out

    def allows(self, value, flags=()):
        return any(first <= value <= last for first, last in self.ranges(flags))

    def interesting(self, flags=()):
        """Zero, limits, one past them, all bits; for a reserved field, each bit."""
        out = {0, self.most}
        for first, last in self.ranges(flags):
            out |= {first, last, first - 1, last + 1}
        if self.is_reserved:
            out |= {1 << bit for bit in range(8 * self.length)}
        return sorted(value for value in out if 0 <= value <= self.most)


class Record:
    """A command or an event."""

    def __init__(self, name, opcode, length, flags):
        self.name, self.opcode, self.length, self.flags = name, opcode, length, flags
        self.fields, self.errnos = [], []


def _rows(section, first):
    """Rows of the section's tables whose first column is headed `first`, without decoration."""
    out, wanted, before = [], False, ""
    for line in section.splitlines():
        if not line.startswith("|"):
            before = line
            continue
        cells = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", cell.strip().replace("`", ""))
                 for cell in line.strip().strip("|").split("|")]
        if not before.startswith("|"):
            wanted = cells[0] == first
        elif wanted and not line.startswith("|--"):
            out.append(cells)
        before = line
    return out


def _sections(text):
    """Headings of any level, and what stands below each."""
    sections, heading, code = {}, "", False
    for line in text.splitlines():
        code ^= line.startswith("```")
        if line.startswith("#") and not code:
            heading = line.strip("# ")
        else:
            sections[heading] = sections.get(heading, "") + line + "\n"
    return sections


class Page:
    def __init__(self, path=PATH):
        with open(path, encoding="utf-8") as file:
            self.sections = _sections(file.read())
        self.commands = self._records("Commands")
        self.events = self._records("Events")
        # Errors that every command has.
        self.common = [row[0] for row in _rows(self.sections["Errors"], "errno")]
        self.structures = {name: self._fields(name) for name in (
            "Address", "Negotiated", "Presumption", "Range", "Descriptor", "Counters",
            "Connection info", "Status page")}
        # What, command, test.
        self.operations = [(row[0], row[2], row[3]) for row in
                           _rows(self.sections["The operations of 2013"], "Operation of 2013")]

    def _fields(self, heading):
        return [Field(int(row[0]), int(row[1]), row[2], row[3])
                for row in _rows(self.sections[heading], "Offset") if row[1].isdigit()]

    def _records(self, heading):
        bits = {row[0]: 1 << int(row[1]) for row in _rows(self.sections[heading], "Flag")}
        records = {}
        for opcode, name, length, _, flags, *_ in _rows(self.sections[heading], "Opcode"):
            names = [flag for flag in flags.split(", ") if flag]
            record = Record(name, int(opcode, 16), int(length), {f: bits[f] for f in names})
            section = next(key for key in self.sections if name in key.split(" and "))
            record.fields = self._fields(section)
            record.errnos = [row[0] for row in _rows(self.sections[section], "errno")]
            records[name] = record
        return records

    def pairs(self):
        """Every (command, errno) that the page has."""
        return [(name, errno) for name, command in self.commands.items()
                for errno in self.common + command.errnos]

    def check_event(self, opcode, flags, body):
        """What of an event is not as the page says; empty if all is."""
        event = next((e for e in self.events.values() if e.opcode == opcode), None)
        if event is None:
            return [f"event {opcode:#x} is unknown"]
        wrong = []
        names = [name for name, bit in event.flags.items() if flags & bit]
        if flags & ~sum(event.flags.values()):
            wrong.append(f"{event.name}: flags {flags:#x}")
        if len(body) < event.length:
            return wrong + [f"{event.name}: {len(body)} bytes"]
        for field in event.fields:
            at = field.offset - 16
            wrong += self._check(event.name, field, body[at:at + field.length], names)
        payload = next((f for f in event.fields if f.name == "payload_length"), None)
        if payload:
            length = int.from_bytes(body[payload.offset - 16:payload.offset - 12], "little")
            rest = body[event.length:]
            if len(rest) != (length + 7) // 8 * 8 or any(rest[length:]):
                wrong.append(f"{event.name}: payload of {length} in {rest[-16:].hex()}")
        if event.name == "CONNECTIONS":
            for at in range(event.length, len(body), 216):
                for field in self.structures["Connection info"]:
                    start = at + field.offset
                    wrong += self._check(event.name, field, body[start:start + field.length], [])
        return wrong

    def _check(self, name, field, value, flags):
        number = int.from_bytes(value, "little")
        wrong = []
        if field.values == "address":
            for part in self.structures["Address"]:
                here = value[part.offset:part.offset + part.length]
                wrong += self._check(f"{name}.{field.name}", part, here, flags)
            if value[:2] == b"\2\0" and any(value[4:12] + value[20:]):
                wrong.append(f"{name}.{field.name}: IPv4 with {value.hex()}")
        elif not field.allows(number, flags):
            wrong.append(f"{name}.{field.name}: {number:#x} is not {field.values}")
        return wrong
