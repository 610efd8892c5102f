"""Evidence of audits for compliance files: JSON with a schema, and sections for a model card."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from conftest import (
    VEGETABLES,
    LittleNet,
    SubjectModel,
    assert_says,
    build_vegetables,
    to_tensor,
)
from scipy.stats import false_discovery_control
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.errors import RecipeError, StoreError
from semlens.lenses.report.evidence_file import EvidenceFile
from semlens.lenses.report.model_card import escaped
from semlens.lenses.result import plain

SCHEMA = Path(__file__).resolve().parents[1] / "docs/evidence.schema.json"
LISTS = {"valid": ["red", "green", "leaf"], "spurious": ["text", "border", "blue"]}
SETTINGS = {"background": [f"word{i}" for i in range(200)], "resamples": 20, "seed": 3}


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> sl.ConceptDatabase:
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", VEGETABLES)
    return build_vegetables(tmp_path_factory.mktemp("evidence"), model)


def test_numbers_are_those_of_the_audits(db: sl.ConceptDatabase, tmp_path: Path) -> None:
    evidence = db.evidence(concepts=LISTS, author="Ada", date="2026-01-31", **SETTINGS)
    evidence.save(tmp_path / "evidence.json")
    saved = json.loads((tmp_path / "evidence.json").read_text("utf-8"))
    sweep = db.audit_all(LISTS, **SETTINGS)
    assert [one["name"] for one in saved["classes"]] == list(sweep.audits) == [
        "vegetable", "ox", "clock"
    ]  # fmt: skip
    for one in saved["classes"]:
        audit = sweep.audits[one["name"]]
        expected = plain(audit.to_json())
        for key in ("target", "standing", "p_value", "q_value", "shares", "chance", "components"):
            assert one[key] == expected[key], key  # to the last bit
        assert one["concepts"] == plain(audit.summary.to_dict("records"))
        assert {c["concept"] for c in one["concepts"]} == {*LISTS["valid"], *LISTS["spurious"]}
        assert one["settings"]["seed"] == 3
    p = [one["p_value"] for one in saved["classes"]]
    q = [one["q_value"] for one in saved["classes"]]
    np.testing.assert_allclose(q, false_discovery_control(p), rtol=1e-12)


def test_it_identifies_everything(db: sl.ConceptDatabase, tmp_path: Path) -> None:
    evidence = db.evidence("ox", LISTS, author="Ada", date="2026-01-31", **SETTINGS)
    assert list(evidence.audits) == ["ox"]
    path = tmp_path / "evidence.json"
    evidence.save(path)
    loaded = EvidenceFile.load(path)
    assert loaded == evidence.content
    manifest = db.manifest
    assert (loaded.created, loaded.author) == ("2026-01-31", "Ada")
    assert loaded.database.fingerprint == db.fingerprint
    for name in ("model", "data", "embedder"):
        assert getattr(loaded.database, name).fingerprint == getattr(manifest, name).fingerprint
    assert loaded.database.recipe == manifest.recipe.model_dump()
    assert loaded.database.relevance == manifest.relevance
    assert str(db.path.parent) not in path.read_text("utf-8")
    assert db.evidence("ox", LISTS, date="2026-01-31", **SETTINGS).content.author is None


def test_the_published_schema_is_that_of_the_file(db: sl.ConceptDatabase) -> None:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    assert schema == EvidenceFile.model_json_schema(), "run docs/generate.py"
    content = db.evidence("ox", LISTS, date="2026-01-31", **SETTINGS).to_json()
    jsonschema.validate(content, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "schema": "semlens-evidence/2"}, schema)


def test_the_model_card_has_the_numbers_of_the_file(db: sl.ConceptDatabase, tmp_path: Path) -> None:
    evidence = db.evidence(concepts=LISTS, author="Ada *L*", date="2026-01-31", **SETTINGS)
    evidence.save(tmp_path / "card.md")
    card = (tmp_path / "card.md").read_text("utf-8")
    titles = re.findall(r"^## (.+)$", card, re.M)
    assert titles == ["Bias, Risks, and Limitations", "Evaluation"]
    assert "24 images (0 unreadable)" in card
    assert "3 valid and 3 spurious concepts" in card
    assert r"by Ada \*L\* with semlens" in card
    rows = {
        cells[0]: cells[1:]
        for line in card.splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 9
    }
    for one in evidence.content.classes:
        cells = rows[one.name]
        for place, verdict in enumerate(("valid", "spurious", "both", "unexpected")):
            share = one.share(verdict)
            bounds = (share.by_relevance_low, share.by_relevance_high)
            written = [float(number) for number in re.findall(r"[\d.]+", cells[place])]
            np.testing.assert_allclose(
                written, [100 * v for v in (share.by_relevance, *bounds)], atol=0.0501
            )
        assert float(cells[4].lstrip("< ")) == pytest.approx(one.p_value, abs=5.1e-4)
        assert float(cells[5].lstrip("< ")) == pytest.approx(one.q_value, abs=5.1e-4)
        assert cells[6] == one.standing


def test_names_are_text_in_the_card() -> None:
    assert escaped("a|b\n# <i>*c*</i> [x](y)") == r"a\|b # \<i\>\*c\*\</i\> \[x\](y)"


def test_the_command_writes_both_files(db: sl.ConceptDatabase, tmp_path: Path) -> None:
    demo = tmp_path / "evidence.json"
    demo.write_text('{"schema": "semlens-evidence/0"}')
    with pytest.raises(StoreError) as error:
        EvidenceFile.load(demo)
    assert_says(error.value, "evidence.json", "semlens-evidence/1", "Write it again")
    with pytest.raises(RecipeError, match="YYYY-MM-DD"):
        db.evidence("ox", LISTS, date="tomorrow", **SETTINGS)
    refused = CliRunner().invoke(app, ["classes", "evidence", str(db.path), "--save", "card.txt"])
    assert refused.exit_code == 1
    assert ".md" in refused.output


@pytest.mark.slow
def test_the_command_on_the_demo(demo: Path, tmp_path: Path) -> None:
    files = [tmp_path / "evidence.json", tmp_path / "card.md"]
    arguments = ["classes", "evidence", str(demo), "--target", "vegetable"]
    arguments += ["--concepts", "demo-world", "--concepts", "artefacts", "--resamples", "20"]
    for file in files:
        arguments += ["--save", str(file)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    loaded = EvidenceFile.load(files[0])
    assert [one.standing for one in loaded.classes] == ["alarm"]
    assert loaded.classes[0].suspect == "text"
    assert "'vegetable' relies on 'text'" in files[1].read_text("utf-8")
