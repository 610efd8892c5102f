"""Labels by methods that look at the reference sample, from build to label."""

from __future__ import annotations

import labelling_oracles as oracle
import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor
from pyarrow import parquet
from safetensors.numpy import load_file

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import ConceptError
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.registry import BUILT_IN
from semlens.lenses.query_embedding import embed_concepts
from semlens.models.subject import SubjectModel
from semlens.store import file_names

CONCEPTS = ConceptSet.of(["dog", "cat", "red", "blue", "grass", "text"])
LAYERS = ["first", "second"]


def build(path, pictures, **recipe):
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    return sl.build(
        path, model, ImageFolder(pictures), WordEmbedder(), LAYERS, examples=4, **recipe
    )


@pytest.fixture(scope="module", params=["none", "activation"])
def db(tmp_path_factory, pictures, request):
    """17 of 41 images; the second layer has components of both signs."""
    path = tmp_path_factory.mktemp("reference") / "db"
    readout = "max" if request.param == "none" else "mean"
    return build(path, pictures, crop=request.param, readout=readout, reference=17)


def stored_evidence(db, layer: str, words: np.ndarray) -> Evidence:
    """Evidence of all components of a layer, read from the files alone."""
    tensors = load_file(db.path / file_names.REFERENCE)
    half = load_file(db.path / file_names.reference_file(layer))
    components = parquet.read_table(db.path / file_names.COMPONENTS).to_pandas()
    components = components[components["layer"] == layer]
    examples = parquet.read_table(db.path / file_names.examples_file(layer)).to_pandas()
    crops = load_file(db.path / file_names.crops_file(0))["vector"]
    signs, columns = components["sign"].to_numpy(), half["readout"].astype(float).shape[0]
    first, n, m = int(components.index[0]), len(components), 4
    rows, readouts = np.full((n, m), -1), np.zeros((n, m), np.float32)
    places, counts = np.full((n, m), -1), np.zeros(n, int)
    sample = tensors["sample"].tolist()
    for one in examples.sort_values(["component", "rank"]).itertuples():
        k, rank = one.component - first, counts[one.component - first]
        rows[k, rank], readouts[k, rank] = one.crop, one.activation * signs[k]
        places[k, rank] = sample.index(one.sample) if one.sample in sample else -1
        counts[k] += 1
    raw = half["readout"].astype(float) * half["scale"][:, None]
    of_component = [signs[k] * raw[k % columns] for k in range(n)]
    own = crops[np.unique(rows[rows >= 0])].astype(np.float32)
    vectors = tensors["vector"].astype(np.float32)
    return Evidence(
        words, crops.astype(np.float32), rows, readouts, counts,
        background=None if db.layer(layer).crop == "none" else own,
        reference=vectors, reference_readouts=np.array(of_component, np.float32).T.copy(),
        in_reference=places, population=41,
    )  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS)
def test_votes_are_those_of_the_stored_files(db, layer):
    embedding = embed_concepts(db, CONCEPTS)
    stored = stored_evidence(db, layer, oracle.unit(embedding.vectors).astype(np.float32))
    assert (stored.in_reference >= 0).any() and (stored.in_reference < 0).any()
    labels = db.label(CONCEPTS, layers=layer, method="vote", candidates=6)
    if layer == "second":
        assert {db.component(row).sign for row in labels.rows.tolist()} == {1, -1}
    expected = oracle.vote(stored)
    assert len(labels) == len(expected) == db.layer(layer).rows
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        labels.score, np.take_along_axis(expected, labels.concept, 1), atol=1e-4 * scale
    )
    np.testing.assert_allclose(labels.score[:, 0], expected.max(1), atol=1e-4 * scale)


SLOW = {"linear-explanation"}  # an elastic net per component
METHODS = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name in sorted(set(BUILT_IN) - {"invert-annotations"})
]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_without_annotations_labels_every_component(db, method):
    labels = db.label(CONCEPTS, method=method)
    assert labels.rows.tolist() == np.flatnonzero(db.has_examples).tolist()
    assert np.isfinite(labels.score).all()
    assert (np.diff(labels.score, axis=1) <= 0).all()


def test_annotations_are_those_of_the_reference_sample(db):
    shown = np.zeros((17, 6), bool)
    shown[:8, 2] = True
    evidence = layer_evidence(db, "second", embed_concepts(db, CONCEPTS), annotations=shown)
    scores = BUILT_IN["invert-annotations"].scores(evidence)
    expected = oracle.annotated_invert(evidence)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert (scores[:, 2] > 0).any() and not scores[:, [0, 1, 3, 4, 5]].any()


def test_examples_are_compared_with_images_of_their_kind(db):
    evidence = layer_evidence(db, "second", embed_concepts(db, CONCEPTS))
    crops = evidence.images.astype(np.float32)
    background = db.reference.vectors if db.layer("second").crop == "none" else crops
    np.testing.assert_array_equal(evidence.images_to_compare, background)
    np.testing.assert_array_equal(evidence.reference, db.reference.vectors)


def test_readouts_of_some_components_in_any_order_are_those_of_all(db):
    embedding, rows = embed_concepts(db, CONCEPTS), db.rows("second")[::-2].copy()
    some, every = (
        layer_evidence(db, "second", embedding, rows),
        layer_evidence(db, "second", embedding),
    )
    places = rows - db.rows("second")[0]
    np.testing.assert_array_equal(some.reference_readouts, every.reference_readouts[:, places])
    np.testing.assert_array_equal(some.in_reference, every.in_reference[places])
    for name in ("vote", "csp", "correlation"):
        np.testing.assert_allclose(
            BUILT_IN[name].scores(some), BUILT_IN[name].scores(every)[places], atol=1e-5
        )


@pytest.mark.slow
def test_without_a_reference_sample_methods_that_need_it_say_how_to_get_one(tmp_path, pictures):
    db = build(tmp_path / "db", pictures, crop="none", reference=0)
    with pytest.raises(ConceptError) as error:
        db.label(CONCEPTS, method="vote")
    assert_says(
        error.value, "Vote needs a reference sample", "vectors and readouts of random images",
        "Build the database again", "vote-examples",
    )  # fmt: skip
    evidence = layer_evidence(db, "second", embed_concepts(db, CONCEPTS))
    np.testing.assert_allclose(evidence.centre, evidence.images.astype(float).mean(0), atol=1e-6)
    for name, method in BUILT_IN.items():
        if "reference" in method.needs:
            with pytest.raises(ConceptError, match=r"needs (annotations|a reference sample)"):
                method.scores(evidence)
        else:
            assert len(db.label(CONCEPTS, method=name)) == db.manifest.rows
