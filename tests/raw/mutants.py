#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Whether the tests that docs/abi.md names for the operations of 2013 notice when their command is gone.

In a guest, with the module of `make module DISABLE=1`: for each row, its command is answered by
EOPNOTSUPP, and its test must fail; then the command is back, and the test must pass.
"""

import errno
import os
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import abi_page     # noqa: E402

PARAMETER = "/sys/module/usmbd/parameters/disabled"


def load():
    """The module that can be told what to refuse in the place of the usual one."""
    subprocess.run(["rmmod", "usmbd"], check=True)
    path = f"/src/build/{os.environ['LAB_KERNEL']}-disable/usmbd.ko"
    subprocess.run(["insmod", path], check=True)


def disable(opcode):
    with open(PARAMETER, "w", encoding="ascii") as file:
        file.write(str(opcode))


def run(test):
    """Whether the test passes, and what it said."""
    done = subprocess.run([sys.executable, f"{HERE}/run.py", f"operation {test}"], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode == 0, done.stdout.splitlines()[0]


def main():
    page = abi_page.Page()
    passed = failed = 0
    load()
    for _, command, test in page.operations:
        if not command:
            continue
        disable(page.commands[command].opcode)
        without, why = run(test)
        disable(0)
        with_it, said = run(test)
        good = not without and f"[Errno {errno.EOPNOTSUPP}]" in why and with_it
        passed, failed = passed + good, failed + (not good)
        print(f"{'PASS' if good else 'FAIL'} {command}: {test}: without it: {why}"
              + ("" if with_it else f"; with it: {said}"), flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
