"""The code of docs/migration.md runs on the demo, as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import semlens as sl

PAGE = Path(__file__).resolve().parents[1] / "docs/migration.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:With rules")
def test_the_blocks_run_on_the_demo(tmp_path, monkeypatch, demo):
    (tmp_path / "semlens-demo").symlink_to(demo.parent)
    monkeypatch.chdir(tmp_path)
    found: dict[str, object] = {}
    assert len(BLOCKS) == 3
    for block in BLOCKS:
        exec(compile(block, PAGE.name, "exec"), found)
    db = found["db"]
    assert isinstance(db, sl.ConceptDatabase)
    assert np.asarray(found["vectors"]).shape == (db.manifest.rows, db.manifest.dim)
    assert np.asarray(found["heatmap"]).ndim == 2
    assert len(found["graph"].nodes) > 1
    labels = found["labels"].to_pandas()["label"].dropna()
    words = {word for label in labels for word in label.removeprefix("mixed: ").split(", ")}
    assert words - {"mixed"} <= {"letter", "clock", "animal", "wheel"}
