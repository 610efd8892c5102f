"""Words proposed from examples: what a proposer sees, what becomes of its words, a real model."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, to_tensor
from PIL import Image

import semlens as sl
from semlens.data.image_folder import ImageFolder
from semlens.draw.example_picture import example_crop
from semlens.errors import ConceptError
from semlens.lenses.labelling.database_evidence import layer_evidence
from semlens.lenses.labelling.proposals import CELL, CaptionModel, grid, propose_words
from semlens.lenses.labelling.registry import make_labeller
from semlens.lenses.query_embedding import embed_concepts
from semlens.models.subject import SubjectModel


@pytest.fixture(scope="module")
def db(tmp_path_factory, pictures):
    path = tmp_path_factory.mktemp("proposals") / "db"
    model = SubjectModel(LittleNet(), to_tensor, "32 bilinear", "python:little", list("abcd"))
    images = ImageFolder(pictures)
    return sl.build(path, model, images, WordEmbedder(), ["first"], examples=5, crop="none")


def rows_of(db) -> list[int]:
    return [row for row in db.rows("first").tolist() if db.has_examples[row]][:3]


def test_a_proposer_sees_the_strongest_examples_and_its_words_are_collected(db):
    seen, answers = [], iter([["red  dog", "sky"], ["Red dog", "", " ", "x" * 41], ["sky", "sea"]])

    def proposer(pictures):
        seen.append(pictures)
        return next(answers)

    rows = rows_of(db)
    found = propose_words(db, rows, proposer, pictures=2)
    for row, pictures in zip(rows, seen, strict=True):
        expected = [example_crop(db, example) for example in db.examples_of(row, 2)]
        assert [p.tobytes() for p in pictures] == [p.tobytes() for p in expected]
    assert found.words == ("red dog", "sky", "sea")
    assert found.proposed.tolist() == [[1, 1, 0], [1, 0, 0], [0, 1, 1]]


def test_proposed_words_are_scored_like_any_others(db):
    rows = rows_of(db)
    answers = iter([["dog", "cat"], ["grass"], ["sea", "dog"]])
    found = propose_words(db, rows, lambda pictures: next(answers))
    concepts = found.concept_set()
    evidence = layer_evidence(db, "first", embed_concepts(db, concepts), np.array(rows))
    scores = make_labeller("semantic-lens").scores(evidence)
    own = found.own(scores)
    assert [concepts.concepts[i].name for i in own.argmax(1)][1] == "grass"
    np.testing.assert_array_equal(np.isfinite(own), found.proposed)
    np.testing.assert_array_equal(own[found.proposed], scores[found.proposed])


@pytest.mark.parametrize("answer", ["dog, cat", ["dog", 3], None])
def test_an_answer_that_is_no_list_of_texts_is_refused(db, answer):
    with pytest.raises(ConceptError, match="The proposer returned"):
        propose_words(db, rows_of(db), lambda pictures: answer)


def test_a_grid_holds_each_picture_in_its_cell():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    sizes = [(50, 50), (300, 100), (20, 400)]
    picture = grid([Image.new("RGB", s, c) for s, c in zip(sizes, colours, strict=True)])
    assert picture.size == (2 * CELL, 2 * CELL)
    middle = CELL // 2
    for place, colour in enumerate([*colours, (0, 0, 0)]):
        row, column = divmod(place, 2)
        assert picture.getpixel((column * CELL + middle, row * CELL + middle)) == colour


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny BLIP with random weights, saved as transformers saves any."""
    import torch
    from transformers import (
        BertTokenizer,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", ",", "dog", "red", "sky"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BertTokenizer(str(folder / "vocab.txt"))
    small = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }  # fmt: skip
    config = BlipConfig(
        text_config={
            **small, "vocab_size": len(words), "encoder_hidden_size": 16, "bos_token_id": 5,
            "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0, "max_position_embeddings": 64,
        },
        vision_config={**small, "image_size": 32, "patch_size": 16},
        projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(
        folder
    )
    return folder


@pytest.mark.slow
def test_a_local_vision_language_model_proposes_words(db, checkpoint):
    model = CaptionModel(str(checkpoint), length=8)
    rows = rows_of(db)
    found = propose_words(db, rows, model)
    # its weights are random: that it reads pictures and answers in its words is what counts
    assert found.words
    assert set(" ".join(found.words).split()) <= {"dog", "red", "sky", "[UNK]", "[DEC]"}
    assert propose_words(db, rows, model).words == found.words


def test_a_model_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConceptError, match="Cannot load the vision-language model"):
        CaptionModel(str(tmp_path))
