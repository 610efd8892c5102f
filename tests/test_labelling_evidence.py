"""Evidence: what is checked, and how it is read from a database."""

from __future__ import annotations

from dataclasses import replace

import labelling_oracles as oracle
import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, to_tensor

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.errors import ConceptError, LayerError
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.labelling.evidence import Evidence
from semlens.lenses.labelling.label import label
from semlens.lenses.labelling.registry import BUILT_IN
from semlens.lenses.labelling.semantic_lens import SemanticLens
from semlens.lenses.query_embedding import embed_concepts
from semlens.models.subject import SubjectModel


def spoilt(array, place, value):
    array = array.copy()
    array[place] = value
    return array


BAD = {
    "'words' has length nan": lambda e: {"words": spoilt(e.words, (1, 0), np.nan)},
    "'words' has length 0": lambda e: {"words": spoilt(e.words, 1, 0)},
    "Vector 3 of 'images' has length inf": lambda e: {"images": spoilt(e.images, (3, 0), np.inf)},
    "Vector 0 of 'reference' has length 2": lambda e: {"reference": 2 * e.reference},
    "'null' has length 3": lambda e: {"null": 3 * e.null},
    "'counts' has values from 0": lambda e: {"counts": spoilt(e.counts, 0, 0)},
    "to 7": lambda e: {"counts": spoilt(e.counts, 0, 7)},
    "rows from -5": lambda e: {"examples": spoilt(e.examples, (0, 0), -5)},
    "'readouts' has values that are not": lambda e: {
        "readouts": spoilt(e.readouts, (0, 0), np.nan)
    },
    "'readouts' increases": lambda e: {"readouts": spoilt(e.readouts, (0, 1), 1e6)},
    "'reference_readouts' has values": lambda e: {
        "reference_readouts": spoilt(e.reference_readouts, (0, 0), np.inf)
    },
    "'in_reference' has rows from -2": lambda e: {"in_reference": np.full_like(e.examples, -2)},
    "to 60": lambda e: {"in_reference": np.full_like(e.examples, 60)},
    "'population' is 59": lambda e: {"population": 59},
    "but no readouts": lambda e: {"reference_readouts": None, "annotations": None},
    "but no vectors": lambda e: {"reference": None, "annotations": None},
}


@pytest.mark.parametrize("message", BAD)
def test_invalid_values_are_refused(message):
    evidence = oracle.small()
    with pytest.raises(ConceptError, match=message):
        replace(evidence, **BAD[message](evidence))


def test_shapes_that_do_not_fit_are_refused():
    e = oracle.small()
    cases = {
        r"'reference_readouts' is of shape \(60, 4\)": {
            "reference_readouts": e.reference_readouts[:, :4]
        },
        r"'annotations' is of shape \(60, 3\)": {"annotations": e.annotations[:, :3]},
        r"'images' is of shape \(\d+, 7\)": {"images": e.images[:, :7]},
        r"'words' is of shape \(0, 8\)": {"words": e.words[:0], "annotations": None},
        r"'in_reference' is of shape \(4, 6\)": {"in_reference": e.examples[:4]},
        r"\(5, 6\), \(5, 5\) and \(5,\)": {"readouts": e.readouts[:, :5]},
    }
    for message, fields in cases.items():
        changed = {**vars(e), **fields}
        broken = Evidence.__new__(Evidence)  # type checks in tests come before these
        for name in Evidence.__dataclass_fields__:
            object.__setattr__(broken, name, changed[name])
        with pytest.raises(ConceptError, match=message):
            broken.__post_init__()


def test_places_without_an_example_are_ignored():
    e = oracle.small()
    unused = ~e.used()
    assert unused.any()
    other = replace(
        e, examples=spoilt(e.examples, unused, 10**6), readouts=spoilt(e.readouts, unused, np.nan)
    )
    for name, method in BUILT_IN.items():
        np.testing.assert_array_equal(method.scores(other), method.scores(e), err_msg=name)


def test_vectors_and_images_with_positions_are_the_same_evidence():
    e = oracle.small()
    half = replace(e, images=e.images.astype(np.float16))
    block = slice(1, 4)
    np.testing.assert_allclose(half.vectors(block), e.vectors(block), atol=1e-3)
    assert half.vectors(block).dtype == np.float32
    for k in range(len(e)):
        vectors, _ = oracle.examples_of(e, k, 99)
        np.testing.assert_allclose(e.vectors(slice(k, k + 1))[0, : e.counts[k]], vectors)
        assert not e.vectors(slice(k, k + 1))[0, e.counts[k] :].any()


def test_examples_of_a_reference_are_its_strongest_images():
    e = oracle.planted().evidence
    for k in (0, 7):
        expected = sorted(range(1500), key=lambda i: -e.reference_readouts[i, k])[:20]
        assert e.examples[k].tolist() == expected
        np.testing.assert_array_equal(e.readouts[k], e.reference_readouts[expected, k])


def test_blocks_cover_all_components_once_and_are_bounded():
    e = oracle.planted(units=60).evidence
    blocks = list(e.blocks(10**6))
    assert [b.stop - b.start for b in blocks] == [4] * 15
    assert np.concatenate([np.arange(60)[b] for b in blocks]).tolist() == list(range(60))
    assert list(e.blocks(10**9)) == [slice(i, i + 1) for i in range(60)]


CONCEPTS = ConceptSet.of(["dog", "cat", "red", "blue", "grass", "text"])


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    path = tmp_path_factory.mktemp("evidence") / "db"
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    images = ImageFolder(pictures)
    return sl.build(
        path, model, images, WordEmbedder(), ["first", "second"], examples=4, crop="activation"
    )


def test_evidence_of_a_layer_is_what_the_database_holds(db):
    embedding = embed_concepts(db, CONCEPTS)
    for layer in ("first", "second"):
        e = layer_evidence(db, layer, embedding)
        rows = [row for row in db.rows(layer).tolist() if db.has_examples[row]]
        assert len(e) == len(rows)
        for k, row in enumerate(rows):
            examples, sign = db.examples_of(row), db.component(row).sign
            assert e.counts[k] == len(examples)
            vectors = db.vectors_of([one.crop for one in examples])
            np.testing.assert_array_equal(e.images[e.examples[k, : e.counts[k]]], vectors)
            readouts = [sign * one.activation for one in examples]
            np.testing.assert_allclose(e.readouts[k, : e.counts[k]], readouts, rtol=1e-6)
        assert len(e.images) == len(np.unique(db.example_crops(layer)[1]))
        np.testing.assert_allclose(e.centre, e.images.astype(float).mean(0), atol=1e-6)


def test_semantic_lens_gives_the_scores_of_label(db):
    labels = label(db, CONCEPTS, layers="second", candidates=6, method="semantic-lens")
    method = SemanticLens()
    scores = method.scores(layer_evidence(db, "second", embed_concepts(db, CONCEPTS), labels.rows))
    np.testing.assert_allclose(
        np.take_along_axis(scores, labels.concept, 1), labels.score, atol=2e-3
    )  # concept vectors are saved with 16 bits


def test_components_of_other_layers_or_without_examples_are_refused(db):
    embedding = embed_concepts(db, CONCEPTS)
    first = db.rows("first")
    with pytest.raises(ConceptError, match=f"Row {first[0]} is of another layer"):
        layer_evidence(db, "second", embedding, first[:1])
    with pytest.raises(ConceptError, match="No component of the layer 'second'"):
        layer_evidence(db, "second", embedding, np.zeros(0, np.int64))
    with pytest.raises(LayerError, match="'third'"):
        layer_evidence(db, "third", embedding)
