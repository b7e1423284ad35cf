# SPDX-License-Identifier: GPL-2.0-only
"""main.py RUNS OUT: makes OUT/results.json, table.txt, profile.txt and the plots of the runs in
RUNS/bench-GROUP, of the groups that are there."""

import os
import sys

import counts
import plots
import requests
import timed
from results import Results


def main():
    """See the module's documentation."""
    runs, out = sys.argv[1:]
    os.makedirs(out, exist_ok=True)
    results, profile = Results(), []

    def folder(group):
        path = os.path.join(runs, f"bench-{group}")
        return path if os.path.isdir(os.path.join(path, "out")) else None

    for name, analyse in (("interface", counts.interface), ("scale", counts.scale),
                          ("requests-count", requests.counted)):
        if folder(name):
            profile += counts.profile(analyse(results, folder(name)), name)
    for name, analyse in (("requests-trace", requests.traced), ("transport", timed.transport),
                          ("files", timed.files)):
        if folder(name):
            analyse(results, folder(name))
    results.write(os.path.join(out, "results.json"))
    with open(os.path.join(out, "table.txt"), "w", encoding="utf-8") as file:
        file.write(results.table())
    with open(os.path.join(out, "profile.txt"), "w", encoding="utf-8") as file:
        file.write("\n".join(profile) + "\n")
    plots.draw(results, out)
    print(results.table().split("\nEverything\n")[0])


if __name__ == "__main__":
    main()
