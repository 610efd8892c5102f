"""Tables of what ``web_load`` measured, for the documentation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.harness import table

TITLES = {
    "mixed": "mixed requests of one client",
    "clients": "{clients} clients, {minutes:g} minutes, {slow_connections} slow connections",
    "uploads": "images of {mb_each:.1f} MB at the same time",
}


def load_tables(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the answers and the memory of every part, and the times of mixed requests."""
    rows: list[Sequence[Any]] = []
    for part, values in results.items():
        if part == "replaced":
            rows += [_row(f"a database {name}", v["answers"]) for name, v in values.items()]
        else:
            title = TITLES[part].format(**values, minutes=values.get("seconds", 0) / 60)
            rows.append(_row(title, values["answers"], _memory(values)))
    header = ["requests", "number", "results", "clear refusals", "WRONG", "memory, MiB"]
    found = [table(header, rows)]
    if "mixed" in results:
        times = [
            (name, t["requests"], t["median_ms"], t["p95_ms"], f"{t['share_of_time']:.0%}")
            for name, t in results["mixed"]["times"].items()
        ]
        header = ["mixed requests", "number", "median, ms", "95 %, ms", "share of the time"]
        found.append(table(header, times, digits=0))
    return "\n\n".join(found)


def _row(title: str, answers: Mapping[str, int], memory: str = "-") -> list[Any]:
    kinds = Counter[str]()
    for kind, number in answers.items():
        kinds[kind.partition(" ")[0].rstrip(":")] += number
    total = sum(answers.values())
    return [title, total, kinds["result"], kinds["refused"], kinds["WRONG"], memory]


def _memory(values: Mapping[str, Any]) -> str:
    read = values["rss_mib"]
    if isinstance(read, dict):
        return f"{read['before']:.0f} before, at most {read['most']:.0f}"
    half, last = read[len(read) // 2], read[-1]
    return f"{half:.0f} half-way, {last:.0f} at end ({last / half - 1:+.1%})"
