"""The code of docs/neighbours.md runs on the demo, as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs/neighbours.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)


@pytest.mark.slow
def test_the_blocks_run_on_the_demo(tmp_path, monkeypatch, demo):
    (tmp_path / "semlens-demo").symlink_to(demo.parent)
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    assert len(BLOCKS) == 4
    for block in BLOCKS:
        exec(compile(block, PAGE.name, "exec"), found)
    db = found["db"]
    assert found["in_memory"].equals(found["in_a_file"])
    assert found["written"].components == db.has_examples[db.rows("layer3")].sum()
    assert found["labels"].frame["label"].tolist() == ["letters", "a wheel"]
    table = pd.read_parquet("map.parquet")
    assert np.array_equal(np.stack(table["vector"]), db.theta[db.rows_of(table["component"])])
    assert all(picture.startswith(b"\x89PNG") for picture in table["crop"])
