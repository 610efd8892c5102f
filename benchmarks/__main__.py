"""Run a benchmark, or list them: ``python -m benchmarks NAME [--quick] [--json] [--help]``."""

from __future__ import annotations

import json
import os
import sys

from benchmarks.harness.printing import table
from benchmarks.harness.recorded import record, write_tables
from benchmarks.harness.registry import benchmark_names, described, load_benchmark

USAGE = """usage: python -m benchmarks NAME [--quick] [--json] [--work FOLDER] [options of NAME]
       python -m benchmarks NAME --help
       python -m benchmarks list [--json]
       python -m benchmarks tables        (writes results.json to the documentation)"""


def list_benchmarks(*, as_json: bool) -> None:
    """Print name, description, duration and pages of all benchmarks."""
    rows = [described(name) for name in benchmark_names()]
    if as_json:
        print(json.dumps({"benchmarks": rows}))
    else:
        header = ["benchmark", "minutes", "what it measures", "quoted in"]
        cells = [[r["name"], r["minutes"], r["about"], ", ".join(r["quoted"])] for r in rows]
        print(table(header, cells, digits=1))


def main(arguments: list[str]) -> None:
    """Run the command of these arguments.

    Raises
    ------
    SystemExit
        If there is no such benchmark, or its result is not what it has to be.
    """
    if not arguments or arguments[0].startswith("-"):
        print(USAGE)
        raise SystemExit(0 if arguments else 2)
    name, *options = arguments
    if name == "list":
        list_benchmarks(as_json=options == ["--json"])
        return
    if name == "tables":
        write_tables()
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    found = load_benchmark(name)
    found.prepare()
    parsed = found.parser().parse_args(options)
    result = found.run(parsed)
    if found.tables is not None and parsed.record:
        record(name, result, found.tables(result))
    if parsed.json:
        print(json.dumps(result))
    else:
        found.show(result)
    if problem := found.problem(result):
        raise SystemExit(problem)


if __name__ == "__main__":
    main(sys.argv[1:])
