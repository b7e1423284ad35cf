# SPDX-License-Identifier: GPL-2.0-only
"""The list of results, and the statistics behind it."""

import json
import operator
import random
import statistics

COMPARE = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}


def bootstrap(samples, statistic=statistics.median, rounds=2000):
    """The 95 % interval of a statistic, by resampling; None for too few samples. Of a list of tuples
    whole tuples are drawn, so that what was measured together stays together."""
    if len(samples) < 3:
        return None
    dice = random.Random(1)
    values = sorted(statistic(dice.choices(samples, k=len(samples))) for _ in range(rounds))
    return [values[int(rounds * 0.025)], values[int(rounds * 0.975)]]


class Results:
    """What goes into results.json."""

    def __init__(self):
        self.rows = []

    def add(self, group, name, params, unit, value, *, interval=None, baseline=None, ratio=None,
            target=None, kind="count"):
        """Adds a result. `target` is like "<= 300", about the ratio if there is one, else the value."""
        met = None
        if target is not None:
            sign, number = target.split()
            judged = value if ratio is None else ratio
            met = COMPARE[sign](judged, float(number))
        self.rows.append({
            "group": group, "name": name, "params": params, "unit": unit, "value": value,
            "interval": interval, "baseline": baseline, "ratio": ratio, "target": target, "met": met,
            "kind": kind,
        })

    def counted(self, group, name, params, unit, samples, **more):
        """Adds the median of counts; the interval is from the least to the greatest."""
        self.add(group, name, params, unit, statistics.median(samples),
                 interval=[min(samples), max(samples)], **more)

    def timed(self, group, name, params, unit, samples, **more):
        """Adds the median of what was timed, with its 95 % interval."""
        self.add(group, name, params, unit, statistics.median(samples), interval=bootstrap(samples),
                 kind="timed", **more)

    def value(self, group, name, **params):
        """The value of a result with these parameters among its own; None if there is none."""
        for row in self.rows:
            if row["group"] == group and row["name"] == name and \
                    all(row["params"].get(key) == value for key, value in params.items()):
                return row["value"]
        return None

    def select(self, group, name, **params):
        """All results with these parameters among their own."""
        return [row for row in self.rows if row["group"] == group and row["name"] == name
                and all(row["params"].get(key) == value for key, value in params.items())]

    def write(self, path):
        """Writes results.json."""
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.rows, file, indent=1)
            file.write("\n")

    def table(self):
        """The text table: what has a target first, then everything."""
        lines = ["What has a target", ""]
        lines += self._lines([row for row in self.rows if row["target"]])
        lines += ["", "Everything", ""] + self._lines(self.rows)
        return "\n".join(lines) + "\n"

    @staticmethod
    def _lines(rows):
        lines, group = [], None
        for row in rows:
            if row["group"] != group:
                group = row["group"]
                lines += ["", f"-- {group} --"]
            params = ", ".join(f"{key} {value}" for key, value in row["params"].items()
                               if value is not None)
            text = f"{row['name']}{': ' if params else ''}{params}"
            cells = [f"{text:<92}", f"{number(row['value']):>10} {row['unit']:<13}"]
            if row["interval"]:
                cells.append(f"[{number(row['interval'][0])} .. {number(row['interval'][1])}]")
            if row["ratio"] is not None:
                cells.append(f"ratio {number(row['ratio'])}")
            if row["target"]:
                cells.append(f"target {row['target']}: {'met' if row['met'] else 'MISSED'}")
            lines.append(" ".join(cells))
        return lines


def number(value):
    """A number for people."""
    if value is None:
        return "-"
    if value == int(value) and abs(value) < 1e9:
        return str(int(value))
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}"
