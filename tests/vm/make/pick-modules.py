#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""pick-modules.py TREE LIST OUT: copy the modules that LIST names from the
module tree TREE to OUT, and all that they depend on, unpacked: modprobe in an
emulated guest is slow at unpacking."""
import lzma
import pathlib
import sys

tree, listing, out = map(pathlib.Path, sys.argv[1:])
wanted = [l.strip() for l in listing.read_text().splitlines() if l.strip() and not l.startswith("#")]
needs = {}
for line in (tree / "modules.dep").read_text().splitlines():
    name, rest = line.split(":")
    needs[name] = rest.split()


def is_wanted(name):
    base = name.removesuffix(".xz")
    return any(base == f"kernel/{w}" or base.startswith(f"kernel/{w}/") for w in wanted)


picked = set()
for name in needs:
    if is_wanted(name):
        picked.add(name)
        picked.update(needs[name])
for name in picked:
    data = (tree / name).read_bytes()
    if name.endswith(".xz"):
        data = lzma.decompress(data)
        name = name[:-3]
    to = out / name
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(data)
for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
    if (tree / name).exists():
        (out / name).write_bytes((tree / name).read_bytes())
print(f"{len(picked)} modules")
