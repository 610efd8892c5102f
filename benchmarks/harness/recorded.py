"""Recorded results (``results.json``), and the tables of the documentation that show them.

A table is between two marks in Markdown: ``<!-- faults -->`` and ``<!-- end of faults -->``. An
entry of the file has its mark, its page, and as cells what the table shows; ``date`` is that of the
measurement, or of the commit that first quoted it, if no more is known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.printing import table
from benchmarks.harness.registry import ROOT

FILE = Path("benchmarks") / "results.json"


def recorded(root: Path = ROOT) -> dict[str, Any]:
    """Return all recorded results by mark."""
    return json.loads((root / FILE).read_text("utf-8"))


def rendered(entry: Mapping[str, Any]) -> str:
    """Return what stands between the marks: when it was measured, if that is known, and tables."""
    shown = [table(one["header"], one["rows"]) for one in entry["tables"]]
    if entry["seconds"] is not None:
        commit = f" at commit {entry['commit']}" if entry["commit"] else ""
        said = f"Measured on {entry['date']}{commit}, in {entry['seconds'] / 60:.0f} minutes."
        if entry["incomplete"]:
            said += f" Stopped before their end: {', '.join(entry['incomplete'])}."
        shown.insert(0, said)
    return "\n\n".join(shown)


def with_tables(text: str, page: str, results: Mapping[str, Any]) -> str:
    """Return the text of a page with the recorded tables between their marks.

    Raises
    ------
    ValueError
        If the page lacks a mark.
    """
    for mark, entry in results.items():
        if entry["page"] == page:
            start, end = f"<!-- {mark} -->", f"<!-- end of {mark} -->"
            before, found, rest = text.partition(start)
            _, closed, after = rest.partition(end)
            if not (found and closed):
                raise ValueError(f"{page} has no '{start}' and '{end}'. Expected a place for it.")
            text = f"{before}{start}\n\n{rendered(entry)}\n\n{end}{after}"
    return text


def write_tables(root: Path = ROOT) -> None:
    """Write the recorded tables to all pages."""
    results = recorded(root)
    for page in sorted({entry["page"] for entry in results.values()}):
        text = (root / page).read_text("utf-8")
        (root / page).write_text(with_tables(text, page, results), "utf-8")


def record(
    benchmark: str, result: Mapping[str, Any], tables: Mapping[str, str], root: Path = ROOT
) -> None:
    """Record the tables of a result in the file, and write them to their pages.

    Parameters
    ----------
    result
        Has ``date``, ``commit``, ``seconds``, and maybe which parts are ``incomplete``.
    tables
        Markdown by mark; one or several tables, with empty lines between them.
    """
    results = recorded(root)
    machine = result["machine"]
    for mark, text in tables.items():
        results[mark] = {
            "benchmark": benchmark,
            "page": results[mark]["page"],
            **{key: result[key] for key in ("date", "commit", "seconds")},
            "incomplete": result.get("incomplete", []),
            "machine": f"{machine['cores']} cores, {machine['cpu']}",
            "tables": [_cells(part) for part in text.split("\n\n")],
        }
    save(results, root)
    write_tables(root)


def save(results: Mapping[str, Any], root: Path = ROOT) -> None:
    """Write the file, with a row of a table on each line."""
    entries: list[str] = []
    for mark, entry in results.items():
        about = {key: value for key, value in entry.items() if key != "tables"}
        shown = []
        for one in entry["tables"]:
            rows = ",\n    ".join(json.dumps(row, ensure_ascii=False) for row in one["rows"])
            header = json.dumps(one["header"], ensure_ascii=False)
            shown.append(f'{{"header": {header},\n   "rows": [\n    {rows}\n   ]}}')
        start = json.dumps(about, ensure_ascii=False)[:-1]
        entries.append(f'{json.dumps(mark)}: {start},\n  "tables": [{", ".join(shown)}]}}')
    text = "{\n" + ",\n".join(entries) + "\n}\n"
    temporary = root / FILE.with_suffix(".tmp")
    temporary.write_text(text, "utf-8")
    temporary.replace(root / FILE)


def _cells(markdown: str) -> dict[str, Any]:
    header, _, *rows = (line.strip("| ").split(" | ") for line in markdown.splitlines())
    return {"header": header, "rows": rows}
