#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Everything in docs/abi.md, by bytes alone, in the guest: each errno of each command, each event, each row
of the operations of 2013, each field. One line for each, and "N passed, M failed" at the end.

usage: run.py [WORD...]     only what has one of these words in its line
"""

import os
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import connecting   # noqa: E402,F401
import errnos       # noqa: E402
import fields       # noqa: E402
import memoryless   # noqa: E402,F401
import operations   # noqa: E402
import routing      # noqa: E402,F401
from world import PAGE, tidy  # noqa: E402


def missing(name):
    def fail():
        raise AssertionError(f"docs/abi.md has {name}, and no function here shows it")
    return fail


def everything():
    """(line, function), completed by what the page has and nobody shows."""
    pairs = set(PAGE.pairs())
    for name, errno in sorted(pairs | set(errnos.PAIRS)):
        line = f"{name} {errno}"
        if (name, errno) not in pairs:
            yield line, missing_in_page(line)
        elif (name, errno) in errnos.PAIRS:
            yield line, lambda f=errnos.PAIRS[name, errno], n=name: f(n)
        else:
            yield line, missing(line)
    for name in PAGE.events:
        yield f"event {name}", operations.EVENTS.get(name, missing(name))
    named = {test for _, _, test in PAGE.operations}
    for name in sorted(named | set(operations.OPERATIONS)):
        yield f"operation {name}", operations.OPERATIONS.get(name, missing(name))
    for name, function in fields.checks():
        yield f"field {name}", function


def missing_in_page(name):
    def fail():
        raise AssertionError(f"docs/abi.md does not have {name}")
    return fail


def main(words):
    passed, failed = 0, []
    done = {}
    for line, function in everything():
        if words and not any(word in line for word in words):
            continue
        begin = time.monotonic()
        # An event and an operation may be shown by one function: once is enough.
        if function in done:
            error = done[function]
        else:
            error = None
            try:
                function()
            except BaseException as caught:  # pylint: disable=broad-exception-caught
                if isinstance(caught, KeyboardInterrupt):
                    raise
                where = traceback.extract_tb(caught.__traceback__)[-1]
                inner = next((frame for frame in reversed(traceback.extract_tb(caught.__traceback__))
                              if "/tests/raw/" in frame.filename), where)
                error = (f"{type(caught).__name__}: {caught} "
                         f"({os.path.basename(inner.filename)}:{inner.lineno})")
            done[function] = error
            tidy()
        took = time.monotonic() - begin
        if error:
            failed.append(line)
            print(f"FAIL {line}: {error}", flush=True)
        else:
            passed += 1
            print(f"PASS {line}" + (f" ({took:.1f} s)" if took > 2 else ""), flush=True)
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
