"""Methods by name, their parameters, and plug-ins."""

from __future__ import annotations

import sys

import labelling_oracles as oracle
import numpy as np
import pytest

from semlens.errors import ConceptError, RecipeError
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.labeller import Labeller
from semlens.lenses.labelling.registry import BUILT_IN, labeller_names, make_labeller
from semlens.lenses.labelling.semantic_lens import SemanticLens

PLUG_IN = '''
import numpy as np
from semlens.lenses.labelling.labeller import Labeller

class First(Labeller):
    """Prefer a word by its place."""

    needs = ()
    place: int = 0

    def _scores(self, evidence):
        return np.tile(np.float32(np.arange(evidence.shape[1]) == self.place), (len(evidence), 1))

third = First(place=2)
text = "no method"
'''


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution: a module, and the metadata that an installer writes."""

    def write(name: str, module: str, source: str, points: str) -> None:
        (tmp_path / f"{module}.py").write_text(source)
        metadata = tmp_path / f"{name}-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[semlens.labellers]\n{points}\n")

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return write


def test_an_installed_plug_in_is_a_method(install):
    install("places", "places_a", PLUG_IN, "first = places_a:First\nthird = places_a:third")
    assert labeller_names() == [*BUILT_IN, "first", "third"]
    evidence = oracle.small()
    assert set(make_labeller("first").scores(evidence).argmax(1)) == {0}
    assert set(make_labeller("third").scores(evidence).argmax(1)) == {2}
    assert set(make_labeller("first", place=4).scores(evidence).argmax(1)) == {4}


def test_a_plug_in_that_fails_is_named_and_hinders_no_other(install):
    install("broken", "places_b", PLUG_IN + "\nimport no_such_module\n", "bad = places_b:First")
    install("odd", "places_c", PLUG_IN, "text = places_c:text\nnone = places_c:Second")
    assert {"bad", "text", "none"} < set(labeller_names())
    assert make_labeller("csp") is BUILT_IN["csp"]
    with pytest.raises(RecipeError, match="'bad' of 'broken'.*no_such_module"):
        make_labeller("bad")
    with pytest.raises(RecipeError, match="'text' of 'odd' is a str"):
        make_labeller("text")
    with pytest.raises(RecipeError, match="'none' of 'odd'.*Second"):
        make_labeller("none")


def test_a_name_has_one_provider(install):
    install("places", "places_d", PLUG_IN, "csp = places_d:First")
    with pytest.raises(RecipeError, match="'csp' is provided by places, semlens"):
        make_labeller("csp")
    assert labeller_names() == list(BUILT_IN)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(RecipeError, match="no labelling method 'semantic-lense'.*semantic-lens"):
        make_labeller("semantic-lense")
    with pytest.raises(RecipeError, match="Expected semantic-lens, .*, random"):
        make_labeller("x")


def test_parameters_are_checked_and_methods_do_not_change():
    assert make_labeller("soft-wpmi", temperature=30.0).temperature == 30
    assert make_labeller("soft-wpmi", temperature=30.0).top == 30  # of this name, not of the class
    with pytest.raises(RecipeError, match="temperature is '-1'. Expected a number above 0"):
        make_labeller("soft-wpmi", temperature=-1)
    with pytest.raises(RecipeError, match="gamma is '2'. Expected a number from 0 to 1"):
        make_labeller("csp", gamma=2)
    with pytest.raises(RecipeError, match="no_such"):
        make_labeller("csp", no_such=1)
    with pytest.raises(RecipeError, match="Expected none, images, words or both"):
        SemanticLens(centred="all")  # type: ignore[arg-type]


def test_every_method_is_documented_and_has_documented_parameters():
    for name, method in BUILT_IN.items():
        assert type(method).__doc__, name
        for parameter, field in type(method).model_fields.items():
            assert field.description, (name, parameter)


def test_scores_of_a_plug_in_are_checked():
    class Wrong(Labeller):
        needs = ()
        words: int = 7

        def _scores(self, evidence: Evidence):
            return np.full((len(evidence), self.words), np.nan, np.float32)

    with pytest.raises(ConceptError, match=r"Wrong gave scores of shape \(5, 1\)"):
        Wrong(words=1).scores(oracle.small())
    with pytest.raises(ConceptError, match="not all finite"):
        Wrong().scores(oracle.small())
