#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""panics.py TOP LIST [--write] NAME=OBJECTS...: where the objects call into Rust's panic machinery.

OBJECTS is the build folder of the kernel NAME. Each call site is known by its origin (the panicking
expression, which the panic's own Location names) and by the function of ours around it. LIST has a
stanza for each origin, with the reason why it cannot be reached; it must say just what is there.
The crates abi and engine may have no such call at all, and no origin may stand in our own source.
"""
import collections
import pathlib
import re
import struct
import subprocess
import sys

PURE = ["abi/src/lib.o", "driver/engine/src/lib.o"]
DRIVER = "driver/main.o"
# Functions that do not return because they panic; by parts of their mangled names.
PANIC = re.compile(r"9panicking|_fail(ed)?(_rt)?$|slice_\w*_fail|unwrap_failed|expect_failed"
                   r"|len_mismatch_fail|panic_already|panic_access_error|capacity_overflow")
OURS = re.compile(r"\d+usmbd_?(abi|engine)?")
# The kernel's and the compiler's trees, wherever they stand.
TREES = re.compile(r"^.*?/?(rust/kernel|rust/pin-init|library|driver|abi)/")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Object:
    """What an object file holds, as far as binutils tell."""

    def __init__(self, path):
        self.path = path
        self.sections = {}
        for line in run("readelf", "-SW", path).splitlines():
            found = re.match(r"\s*\[ *\d+\] (\S+)\s+\S+\s+\w+ (\w+) (\w+)", line)
            if found:
                self.sections[found[1]] = int(found[2], 16), int(found[3], 16)
        self.bytes = pathlib.Path(path).read_bytes()
        self.relocations = collections.defaultdict(dict)
        section = None
        for line in run("readelf", "-rW", path).splitlines():
            if found := re.match(r"Relocation section '\.rela(\S+)'", line):
                section = found[1]
            elif found := re.match(r"(\w{16})\s+\w+ R_\S+\s+\w+\s+(\S+)(?: ([+-]) (\w+))?", line):
                addend = int(found[4] or "0", 16) * (-1 if found[3] == "-" else 1)
                self.relocations[section][int(found[1], 16)] = found[2], addend

    def calls(self):
        """(section, offset) of each call to something that panics."""
        for section, relocations in self.relocations.items():
            if not re.match(r"\.(text|init\.text|exit\.text)", section):
                continue
            for offset, (symbol, _) in sorted(relocations.items()):
                if PANIC.search(symbol) and not OURS.search(symbol.split("E", 1)[0]):
                    yield section, offset

    def location(self, section, offset):
        """The panic's Location: the last one whose address was loaded before the call."""
        before = sorted(at for at in self.relocations[section] if offset - 64 <= at < offset)
        for at in reversed(before):
            symbol, addend = self.relocations[section][at]
            found = self.read_location(symbol, addend)
            if found:
                return found
        return None

    def read_location(self, symbol, addend):
        """`core::panic::Location`: a &str, line and column."""
        pointer = self.relocations.get(symbol, {}).get(addend)
        if pointer is None or pointer[0] not in self.sections:
            return None
        start, size = self.sections[symbol]
        if addend + 24 > size:
            return None
        length, line, _ = struct.unpack_from("<QII", self.bytes, start + addend + 8)
        start, _ = self.sections[pointer[0]]
        start += pointer[1]
        name = self.bytes[start:start + length] if length < 256 else b""
        return (name.decode(), line) if name.endswith(b".rs") else None

    def frames(self, section, offset):
        """(function, file) of the call site, from the innermost inlined function outwards."""
        out = run("addr2line", "-e", self.path, "-j", section, "-ifC", hex(offset - 1)).splitlines()
        return list(zip(out[::2], out[1::2]))


def plain(function):
    """A function's path without generics, crates' hashes and closures' numbers."""
    function = re.sub(r"\[[0-9a-f]{16}\]", "", function)
    while (shorter := re.sub(r"(?<=[\w<])(::)?<[^<>]*>", "", function)) != function:
        function = shorter
    function = re.sub(r"^<&?(mut )?([\w:]+)( as [^<>]*)?>", r"\2", function)
    function = re.sub(r"::\{closure#\d+\}", "", function)
    return function.removeprefix("usmbd::")


def sites(objects, top, sources):
    """Of one kernel: {(file, expression): {function of ours}}; and what is wrong by itself."""
    found, wrong = collections.defaultdict(set), []
    for name in PURE:
        for section, offset in Object(f"{objects}/{name}").calls():
            wrong.append(f"{name}: a panic at {section}+{offset:#x}")
    driver = Object(f"{objects}/{DRIVER}")
    for section, offset in driver.calls():
        frames = driver.frames(section, offset)
        ours = next((plain(f) for f, file in frames if file.startswith(f"{top}/")), None)
        where = driver.location(section, offset)
        if where is None:
            if frames and plain(frames[0][0]).startswith("core::panicking"):
                continue                # core's own, instantiated here: who calls it is listed.
            wrong.append(f"{section}+{offset:#x} in {frames[0][0] if frames else '?'}: no Location")
            continue
        file, line = where
        tree = TREES.search(file)
        if tree and tree[1] in ("driver", "abi") and not frames[0][1].startswith(f"{top}/"):
            # Of a function that tracks its caller; the panic stands in the function.
            file, line = frames[0][1].split(" ")[0].rsplit(":", 1)
            line, tree = int(line), TREES.search(file)
        short = file[tree.start(1):] if tree else file
        if tree and tree[1] in ("driver", "abi"):
            wrong.append(f"{short}:{line}: a panic of our own")
            continue
        source = next((s for s in sources if (s / short).is_file()), None)
        text = (source / short).read_text().splitlines()[line - 1].strip() if source else f"line {line}"
        found[short, text].add(ours or plain(frames[-1][0]))
    return found, wrong


def read_list(path):
    """{origin: (reason lines, {function: kernels})}, and the lines in front."""
    head, stanzas, current = [], {}, None
    for line in path.read_text().splitlines() if path.exists() else []:
        if line.startswith("#") and current is None:
            head.append(line)
        elif found := re.match(r"(\S+): (.*)$", line):
            current = stanzas[found[1], found[2]] = ([], {})
        elif found := re.match(r"\tin (.*?)(?: \[(.*)\])?$", line):
            current[1][found[1]] = found[2]
        elif line.startswith("\t"):
            current[0].append(line[1:])
    return head, stanzas


def main():
    arguments = [a for a in sys.argv[1:] if a != "--write"]
    write = "--write" in sys.argv
    top, path = arguments[0], pathlib.Path(arguments[1])
    kernels, wrong = {}, []
    for argument in arguments[2:]:
        name, objects = argument.split("=")
        sources = [pathlib.Path(f"/kernel/{name}"), pathlib.Path("/usr/lib/rustlib/src/rust")]
        kernels[name], more = sites(objects, top, sources)
        wrong += [f"{name}: {what}" for what in more]

    actual = collections.defaultdict(dict)
    for name, found in kernels.items():
        for origin, functions in found.items():
            for function in functions:
                actual[origin].setdefault(function, []).append(name)
    for functions in actual.values():
        for function, names in functions.items():
            functions[function] = None if len(names) == len(kernels) else " ".join(names)

    head, stanzas = read_list(path)
    if write:
        text = list(head)
        for origin in sorted(actual):
            reason = stanzas.get(origin, ([], {}))[0] or ["WHY?"]
            text += ["", f"{origin[0]}: {origin[1]}", *(f"\t{line}" for line in reason)]
            text += [f"\tin {function}" + (f" [{only}]" if only else "")
                     for function, only in sorted(actual[origin].items())]
        path.write_text("\n".join(text) + "\n")
        _, stanzas = read_list(path)
    for origin in sorted(set(actual) | set(stanzas)):
        reason, listed = stanzas.get(origin, ([], {}))
        what = f"{origin[0]}: {origin[1]}"
        if origin in stanzas and (not reason or reason == ["WHY?"]):
            wrong.append(f"no reason is given for {what}")
        for function in sorted(set(actual.get(origin, {})) ^ set(listed)):
            wrong.append(f"{'listed, and not there' if function in listed else 'not listed'}: "
                         f"{what}, in {function}")
        for function in set(actual.get(origin, {})) & set(listed):
            if actual[origin][function] != listed[function]:
                wrong.append(f"{what}, in {function}: in {actual[origin][function] or 'all kernels'}, "
                             f"and listed for {listed[function] or 'all'}")
    print(*wrong, sep="\n", end="\n" if wrong else "")
    count = sum(len(functions) for functions in actual.values())
    print(f"{'FAIL' if wrong else 'ok'} panics: {count} sites of {len(actual)} origins in {len(kernels)} kernels, {len(wrong)} wrong")
    sys.exit(bool(wrong))


main()
