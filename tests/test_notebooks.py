"""Real kernels: progress bars in a notebook, and the notebooks of ``examples/notebooks``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from semlens.progress import NotebookBars, in_notebook

NOTEBOOKS = Path(__file__).resolve().parents[1] / "examples/notebooks"
WORK = """
import time
from semlens.progress import progress_bars, report_progress
with progress_bars(delay={delay}):
    for done in range(41):
        report_progress("collect", done, 40)
        time.sleep(0.01)
    report_progress("<b>words</b>", 3, 9)
"""


def executed(notebook: Any, folder: Path) -> Any:
    """Run all cells in a kernel of this Python; an error of a cell fails the test."""
    client = NotebookClient(
        notebook, timeout=840, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def texts(notebook: Any) -> str:
    """Return all text of the outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(str(o.get("data", {}).get("text/plain", o.get("text", ""))) for o in outputs)


def test_bars_in_a_kernel_are_one_output_that_is_replaced(tmp_path):
    cells = [nbformat.v4.new_code_cell(WORK.format(delay=delay)) for delay in (0, 60)]
    shown: list[str] = []

    class Client(NotebookClient):
        def process_message(self, msg, cell, cell_index):
            if msg["msg_type"] in ("display_data", "update_display_data"):
                shown.append(msg["content"]["data"]["text/html"])
            return super().process_message(msg, cell, cell_index)

    notebook = nbformat.v4.new_notebook(cells=cells)
    Client(notebook, timeout=60, kernel_name="python3").execute()
    (output,) = notebook.cells[0].outputs
    assert output["output_type"] == "display_data"
    last = output["data"]["text/html"]
    assert re.search(r"running the model 40, &lt;b&gt;words&lt;/b&gt; 3/9: \d+ s</div>$", last), (
        last
    )
    assert len(shown) > 4 and "width:0.0%" in shown[0] and "running the model" in shown[0]
    widths = [float(w) for html in shown[:-1] for w in re.findall(r"width:([\d.]+)%", html)[:1]]
    assert widths == sorted(widths) and widths[-1] == 100
    assert notebook.cells[1].outputs == []  # done before the delay


def test_nothing_of_this_outside_a_notebook(capsys):
    assert not in_notebook()
    bars = NotebookBars()
    bars.stop()  # without an update there is no output
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code and all(not c.outputs and c.execution_count is None for c in code)
    assert path.stat().st_size < 20_000
    for cell in code:
        compile(cell.source, path.name, "exec")
    for link in re.findall(r"\]\((\w+\.ipynb)\)", "".join(c.source for c in notebook.cells)):
        assert (NOTEBOOKS / link).is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)  # four notebooks, two minutes of one core
def test_the_notebooks_run_and_show_what_they_claim(tmp_path):
    """In one folder, so that the second finds the database of the first."""
    run = {
        path.stem: executed(nbformat.read(path, as_version=4), tmp_path)
        for name in ("first_steps", "your_own_model", "audit_and_repair", "sparse_autoencoders")
        for path in [NOTEBOOKS / f"{name}.ipynb"]
    }
    first = texts(run["first_steps"])
    assert "components stand out from noise" in first and "MapWidget" in first
    views = [
        output.data["application/vnd.jupyter.widget-view+json"]
        for cell in run["first_steps"].cells
        for output in cell.get("outputs", [])
        if "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    ]
    assert len(views) == 2  # the map and the card
    assert "why 'vegetable'?" in first

    audit = texts(run["audit_and_repair"])
    assert "ALARM: 'vegetable' relies on 'text'" in audit
    row = r"^\d +(original|without \d+ components) +(with\w*) the mark +([\d.]+) +([\d.]+)$"
    rows = re.findall(row, audit, re.M)
    measured = {(model[:7], mark): (float(a), float(b)) for model, mark, a, b in rows}
    assert measured["without", "with"][0] > measured["origina", "with"][0] + 0.1
    assert measured["without", "with"][1] < measured["origina", "with"][1] - 0.2
    assert measured["without", "without"][0] > measured["origina", "without"][0] - 0.05

    own = texts(run["your_own_model"])
    accuracy = re.search(r"(?:accuracy|Accuracy)\D+(0\.\d+)", own)
    assert accuracy and float(accuracy[1]) > 0.3  # of twelve classes

    latents = texts(run["sparse_autoencoders"])
    separated = dict(re.findall(r"'(layer3[@\w]*:\d+)': ([\d.]+)", latents))
    assert max(float(v) for name, v in separated.items() if "@" in name) > 0.9
