"""Models that are nearly right: class names that do not fit, empty layers, very long names."""

from __future__ import annotations

import pytest
import torch
from conftest import LittleNet, to_tensor

import semlens as sl
from semlens.errors import LayerError, ModelError
from semlens.models.subject import SubjectModel


@pytest.mark.parametrize("count", [3, 5])
def test_class_names_that_do_not_match_the_logits_are_refused(tmp_path, images, words, count):
    model = SubjectModel(LittleNet(), to_tensor, "v", "python:x", list("abcde")[:count])
    with pytest.raises(ModelError, match=f"{count} class names, but the model returns 4 logits"):
        sl.build(tmp_path / "db", model, images, words, ["first"])


@pytest.mark.slow
def test_an_empty_layer_is_refused_and_a_long_name_is_not(tmp_path, images, words):
    class Odd(LittleNet):
        def __init__(self):
            super().__init__()
            self.add_module("x" * 5000, torch.nn.Identity())
            self.none = torch.nn.Identity()

        def forward(self, x):
            self.none(x[:, :0])
            return self.get_submodule("x" * 5000)(super().forward(x))

    model = SubjectModel(Odd(), to_tensor, "v")
    with pytest.raises(LayerError, match="empty tensor"):
        sl.build(tmp_path / "none", model, images, words, ["none"])
    db = sl.build(tmp_path / "long", model, images, words, ["x" * 5000], examples=2)
    assert db.verify().sound
    assert len(db.search("dog", top=2).hits) == 2
