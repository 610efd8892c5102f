"""The benchmarks run and print what their README says; nothing is timed here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_build_quick():
    ended = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "build.py", "--quick", "--json"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    printed = json.loads(ended.stdout)
    assert {"none", "activation"} <= set(printed["ours_over_bare"])
    assert all(ratio > 0 for ratio in printed["ours_over_bare"].values())
    assert 0 < printed["referenced_share"] <= 1
    assert printed["machine"]["cores"] == os.cpu_count()
    for part in printed["parts"].values():
        assert part["peak_rss_mib"] > 100
