"""Write the tables of README.md from figures.json.

    python examples/carton/tables.py figures.json

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

README = Path(__file__).with_name("README.md")
MARKS = {
    "chinese": "捷徑源電商",
    "other-chinese": "other characters, 廠家批發價",
    "black-chinese": "the same in black",
    "turned-chinese": "the same, turned by 180°",
    "small-chinese": "the same at half the size, below",
    "shuffled": "its tiles of 6 x 6 pixels, shuffled",
    "strokes": "random straight strokes",
    "kana-lines": "kana, two lines",
    "kana": "kana, one line, same height",
    "latin-lines": "Latin, two lines",
    "latin": "Latin, one line, same height",
}
Figures = dict[str, Any]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def ranged(value: Sequence[float], form: str = "{:.2f}") -> str:
    """Return a value with its interval."""
    middle, low, high = (form.format(number) for number in value)
    return f"{middle} ({low} to {high})"


def percent(value: float) -> str:
    """Return a share in per cent."""
    return f"{100 * value:.0f} %"


def effects(figures: Figures) -> str:
    """Tabulate what each mark does to carton."""
    rows: list[Sequence[object]] = []
    for mark, text in MARKS.items():
        one = figures["effects"][mark]
        place = f"{one['median_place'][0]:.0f}"
        rows.append((text, f"{figures['ink'][mark]:.0f}", ranged(one["rise"]),
                     one["place_of_rise"], place, percent(one["changed"][0])))  # fmt: skip
    head = ("mark", "ink", "rise of the carton logit", "place among 1,000 rises",
            "median place of carton", "prediction changed")  # fmt: skip
    return table(head, rows)


def channels(figures: Figures) -> str:
    """Tabulate the channels: AUROC in both halves and for the controls."""
    shown = ("chinese", "other-chinese", "shuffled", "kana-lines", "latin-lines", "strokes")
    held, rows = figures["held_out"], []
    for row in figures["contrast"]:
        name = row["component"]
        others = [f"{held[mark][name]:.2f}" for mark in shown]
        rows.append((f"`{name}`", f"{row['auroc']:.2f}", *others,
                     figures["weights"][name]["place"]))  # fmt: skip
    head = ("channel", "found", "held out", *shown[1:], "place of its carton weight")
    return table(head, rows)


def searches(figures: Figures) -> str:
    """Tabulate where searches rank the channels."""
    rows = [(s["query"], s["best"], f"{s['median']:g}", s["last"], s["in_ten"], s["in_hundred"])
            for s in figures["searches"]]  # fmt: skip
    head = ("query", "best rank", "median", "last", "in the first 10", "in the first 100")
    return table(head, rows)


def parts(figures: Figures) -> str:
    """Tabulate how much marks raise the cosines of the embedder's parts with "carton"."""
    titles = {"conse": "ConSE (the network)", "head": "head (the network)",
              "drawings": "tower of `semlens/demo`"}  # fmt: skip
    found = figures["embedder_parts"]
    rows = [(title, *(ranged(found[mark][part], "{:.3f}") for mark in ("chinese", "latin-lines")))
            for part, title in titles.items()]  # fmt: skip
    return table(("part", "Chinese mark", "Latin, same ink"), rows)


def examples(figures: Figures) -> str:
    """Tabulate from which folders the examples of the channels come."""
    rows: list[Sequence[object]] = []
    for one in figures["examples"]:
        shares = [percent(one[k]) if one[k] is not None else "-"
                  for k in ("ink_in_crop", "crop_area")]  # fmt: skip
        counts = [one[version] for version in ("chinese", "kana-lines", "latin-lines", "plain")]
        rows.append((f"`{one['component']}`", *counts, *shares))
    head = ("channel", "Chinese", "kana", "Latin", "plain", "part of the mark in the crop",
            "part of the image in the crop")  # fmt: skip
    return table(head, rows)


def pruning(figures: Figures) -> str:
    """Tabulate pruning at several numbers of channels."""
    first = figures["effects"]["chinese"]
    rows: list[Sequence[object]] = [
        (0, "-", "-", ranged(first["rise"]), f"{first['median_place'][0]:.0f}",
         percent(first["changed"][0]), "-", "-")
    ]  # fmt: skip
    for one in figures["pruning"]:
        rows.append((one["count"], percent(one["share"]),
                     ranged([100 * v for v in one["random_share"]], "{:.0f}") + " %",
                     ranged(one["rise"]), f"{one['median_place'][0]:.0f}",
                     percent(one["changed"][0]), percent(one["cost"][0]),
                     percent(one["random_cost"])))  # fmt: skip
    head = ("channels", "rise removed", "random channels", "rise left", "median place of carton",
            "mark changes prediction", "pruning changes prediction", "random channels")  # fmt: skip
    return table(head, rows)


def choices(figures: Figures) -> str:
    """Tabulate pruning of channels that are chosen in other ways."""
    rows = [(name, one["count"], percent(one["share"]), f"{one['median_place'][0]:.0f}",
             f"{one['plain_place']:.0f}", percent(one["changed"][0]), percent(one["cost"]))
            for name, ones in figures["choices"].items() for one in ones]  # fmt: skip
    head = ("chosen by", "channels", "rise removed", "median place of carton", "without a mark",
            "mark changes prediction", "pruning changes prediction")  # fmt: skip
    return table(head, rows)


def accuracies(figures: Figures) -> str:
    """Tabulate how many known objects are named."""
    rows: list[Sequence[object]] = []
    titles = {"plain": "none", "chinese": "Chinese", "latin-lines": "Latin, two lines"}
    for name, title in titles.items():
        states = figures["accuracy"][name]
        rows.append((title, *(states[state][top] for state in ("original", "pruned")
                              for top in ("top1", "top5"))))  # fmt: skip
    head = ("mark", "first", "first five", "pruned: first", "pruned: first five")
    return table(head, rows)


TABLES = {
    "effects": effects,
    "channels": channels,
    "searches": searches,
    "parts": parts,
    "examples": examples,
    "pruning": pruning,
    "choices": choices,
    "accuracy": accuracies,
}


def fill(text: str, figures: Figures) -> str:
    """Return the text with its tables replaced."""
    for name, make in TABLES.items():
        block = f"<!-- table {name} -->\n{make(figures)}\n<!-- end -->"
        text = re.sub(rf"<!-- table {name} -->\n.*?<!-- end -->", lambda _, b=block: b, text,
                      flags=re.DOTALL)  # fmt: skip
    return text


if __name__ == "__main__":
    figures = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    README.write_text(fill(README.read_text("utf-8"), figures), "utf-8")
