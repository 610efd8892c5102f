"""Which tensor of a model's output answers, what it is, and where its relevance starts."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from functools import cache, partial
from types import SimpleNamespace

import pytest
import torch
from conftest import assert_says, to_tensor
from torch import Tensor, nn
from torch.nn import functional

from semlens.errors import ModelError, RelevanceError
from semlens.models.answer import check_task, find_answer
from semlens.models.output_tensor import find_tensor
from semlens.models.subject import SubjectModel
from semlens.relevance.class_relevance import class_relevance, class_seed, explain_batch
from semlens.relevance.make_engine import engine_for
from semlens.relevance.presets import GRADIENT

FEATURES, LOGITS, OTHER = torch.randn(2, 7), torch.randn(2, 5), torch.randn(2, 5)
NAMES = list("abcde")
Named = namedtuple("Named", "features logits")  # noqa: PYI024


@dataclass
class Fields:
    aux: Tensor
    out: Tensor


# -- which tensor -------------------------------------------------------------------------------

FOUND = {
    "alone": (LOGITS, "", None),
    "logits": ({"features": FEATURES, "logits": LOGITS}, "logits", None),
    "out and aux": ({"aux": OTHER, "out": LOGITS}, "out", None),
    "the loss": ({"loss": torch.tensor(0.0), "y": LOGITS}, "y", None),
    "named tuple": (Named(FEATURES, LOGITS), "logits", None),
    "data class": (Fields(OTHER, LOGITS), "out", None),
    "attributes": (SimpleNamespace(hidden=FEATURES, scores=LOGITS), "scores", None),
    "of the width of the names": ((FEATURES, LOGITS), "1", NAMES),
    "nested": ({"heads": [FEATURES, LOGITS], "maps": torch.randn(2, 5, 3)}, "heads.1", NAMES),
    "the other is a map": ([torch.randn(2, 5, 4, 4), LOGITS], "1", None),
    "logits and probabilities": ([LOGITS.softmax(1), LOGITS], "1", None),
    "logits and sigmoids": ({"x": LOGITS, "p": LOGITS.sigmoid()}, "x", None),
    "one tensor twice": ([LOGITS, LOGITS.clone()], "0", None),
    "not an embedding": ({"pooler_output": FEATURES, "x": LOGITS}, "x", None),
}


@pytest.mark.parametrize("kind", list(FOUND))
def test_the_answer_is_found_by_name_or_width(kind):
    output, path, names = FOUND[kind]
    chosen = find_tensor(output, 2, None, names)
    assert chosen.path == path
    assert torch.equal(chosen(output), LOGITS)


OPEN = {
    "two widths": ((FEATURES, LOGITS), None),
    "two heads": ([LOGITS, OTHER], NAMES),
    "no name fits": ({"first": OTHER, "second": LOGITS}, NAMES),
    "two are named": ({"out": FEATURES, "scores": LOGITS}, None),
}


@pytest.mark.parametrize("kind", list(OPEN))
def test_several_that_fit_are_named_and_none_is_taken(kind):
    output, names = OPEN[kind]
    with pytest.raises(ModelError) as error:
        find_tensor(output, 2, None, names)
    assert_says(error.value, "Several tensors", "[5]", "output=", "--output")


@pytest.mark.parametrize(
    ("output", "choice"),
    [
        ((FEATURES, LOGITS), 1),
        ((FEATURES, LOGITS), -1),
        ((FEATURES, LOGITS), "1"),
        ({"a": FEATURES, "b": LOGITS}, "b"),
        ({"a": FEATURES, "b": LOGITS}, 1),
        ({"heads": [OTHER, LOGITS]}, "heads.1"),
        ({"heads": {"features": FEATURES, "logits": LOGITS}}, "heads"),
        ((FEATURES, [OTHER, LOGITS]), lambda output: output[1][1]),
        (torch.cat([OTHER, LOGITS], 1), lambda output: output[:, 5:]),
    ],
)
def test_the_user_chooses_by_key_index_path_or_function(output, choice):
    assert torch.equal(find_tensor(output, 2, choice, None)(output), LOGITS)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ("c", "no tensor at 'c'"),
        (2, "no tensor at 2"),
        ("map", "[2, 3, 4, 4]"),
        (lambda output: output["a"][0], "a tensor [7]"),
        (lambda output: output["a"].argmax(1), "a tensor [2]"),
        (lambda output: output["x"], "KeyError"),
        (lambda output: "text", "str"),
    ],
)
def test_a_choice_that_is_no_row_per_image_is_refused(choice, said):
    output = {"a": FEATURES, "map": torch.randn(2, 3, 4, 4)}
    with pytest.raises(ModelError) as error:
        find_tensor(output, 2, choice, None)
    assert_says(error.value, said, "a [2, 7]")


@pytest.mark.parametrize(
    "output",
    [
        torch.randn(2, 5, 4, 4), torch.ones(2, dtype=torch.int64), torch.tensor(1.0), None, "text",
        {"boxes": torch.randn(2, 4), "scores": torch.randn(2)}, [{"boxes": LOGITS}], {},
    ],
)  # fmt: skip
def test_maps_class_numbers_and_boxes_are_no_answer(output):
    with pytest.raises(ModelError, match="not logits"):
        find_tensor(output, 2, None, None)


def test_choices_are_checked_and_identify_the_model():
    with pytest.raises(ModelError, match="output is True"):
        subject(Ends(3), output=True)
    with pytest.raises(ModelError, match=r"The task is 'multi'.* multilabel"):
        check_task("multi")
    assert subject(Ends(3)).fingerprint == subject(Ends(3), classes=list("abc")).fingerprint
    tasks = [subject(Ends(3), task=task).fingerprint for task in ("auto", "multilabel")]
    functions = [lambda out: out, lambda out: out * 2, *map(times, (3, 4)), partial(scaled, by=5)]
    chosen = [subject(Ends(3), output=function).fingerprint for function in functions]
    assert len({*tasks, *chosen}) == 7
    assert subject(Ends(3), output=times(3)).fingerprint == chosen[2]


def times(factor: float):
    return lambda out: factor * out


def scaled(out: Tensor, by: float) -> Tensor:
    return out * by


# -- what it is ---------------------------------------------------------------------------------


class Ends(nn.Module):
    """A convolution, a head, and an end; the weights do not depend on the end."""

    def __init__(self, width: int, end=lambda z: z) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6, width)
        self.end = end

    def forward(self, x: Tensor):
        return self.end(self.head(functional.relu(self.conv(x)).mean((2, 3))))


def subject(net: nn.Module, **options) -> SubjectModel:
    return SubjectModel(net.double().eval(), to_tensor, "1", **options)


def in_place(z: Tensor) -> Tensor:
    return z.clone().sigmoid_()


def by_hand(z: Tensor) -> Tensor:
    return z.exp() / z.exp().sum(1, keepdim=True)


def as_map(z: Tensor) -> Tensor:
    return z[:, :, None, None].softmax(1).flatten(1)


ENDS = {
    "softmax": (4, lambda z: z.softmax(-1), "multiclass"),
    "a module": (4, nn.Softmax(1), "multiclass"),
    "log-softmax": (4, lambda z: functional.log_softmax(z, 1), "multiclass"),
    "in a dictionary": (4, lambda z: {"probs": functional.softmax(z, 1)}, "multiclass"),
    "on a map": (4, as_map, "multiclass"),
    "sigmoid": (4, nn.Sigmoid(), "multilabel"),
    "sigmoid in place": (4, in_place, "multilabel"),
    "one sigmoid": (1, torch.sigmoid, "binary"),
    "one, squeezed": (1, lambda z: z.squeeze(1).sigmoid(), "binary"),
    "squeezed last": (1, lambda z: z.sigmoid().squeeze(1), "binary"),
}


@pytest.mark.parametrize("rules", ["epsilon", GRADIENT])
@pytest.mark.parametrize("kind", list(ENDS))
def test_relevance_starts_at_the_logits_before_the_end(kind, rules):
    width, end, task = ENDS[kind]
    plain, model = subject(Ends(width)), subject(Ends(width, end))
    answer, x = model.answer, model.example[:3]
    assert answer.task == task
    assert "relevance starts before the" in answer.sentence()
    logits = plain.module(x).detach()
    expected = logits if width > 1 else torch.cat([logits, -logits], 1)
    torch.testing.assert_close(answer.run(model.module, x), expected)
    targets = torch.tensor([1, 0, 1])
    engine = engine_for(model, ["conv"], rules, classes=True)
    expected = class_relevance(plain_engine(width, rules), x, targets)["conv"]
    torch.testing.assert_close(class_relevance(engine, x, targets)["conv"], expected)
    assert expected.abs().sum() > 0
    told = model.module(x)
    told = told["probs"] if isinstance(told, dict) else told
    told = (told.exp() if kind == "log-softmax" else told).reshape(3, -1)
    probabilities = answer.probabilities(answer.run(model.module, x))
    torch.testing.assert_close(probabilities[:, :width], told)


@cache
def plain_engine(width: int, rules: str):
    return engine_for(subject(Ends(width)), ["conv"], rules, classes=True)


MEASURED = {
    "plain": (Ends(4), {}, "multiclass"),
    "plain with names": (Ends(4), {"classes": list("abcd")}, "multiclass"),
    "one value": (Ends(1), {}, "binary"),
    "[b]": (Ends(4, lambda z: z[:, 0]), {}, "binary"),
    "softmax by hand": (Ends(4, by_hand), {}, "multiclass"),
    "log-probabilities": (Ends(4, lambda z: by_hand(z).log()), {}, "multiclass"),
    "mean of two": (Ends(4, lambda z: (z.softmax(1) + (2 * z).softmax(1)) / 2), {}, "multiclass"),
    "length one": (Ends(4, functional.normalize), {}, "embedding"),
    "cosines to names": (Ends(4, functional.normalize), {"classes": list("abcd")}, "multiclass"),
    "named an embedding": (Ends(4, lambda z: {"pooler_output": z}), {}, "embedding"),
    "declared": (Ends(4), {"task": "multilabel"}, "multilabel"),
    "sigmoids of exclusive classes": (Ends(4, nn.Sigmoid()), {"task": "multiclass"}, "multiclass"),
}


@pytest.mark.parametrize("kind", list(MEASURED))
def test_the_task_is_measured_or_declared(kind):
    net, options, task = MEASURED[kind]
    model = subject(net, **options)
    assert model.answer.task == task
    scores = model.answer.run(model.module, model.example)
    probabilities = model.answer.probabilities(scores)
    if task == "embedding":
        assert probabilities is None
    elif task == "multiclass" and not isinstance(net.end, nn.Sigmoid):
        torch.testing.assert_close(probabilities.sum(1), torch.ones(8, dtype=torch.float64))
    if kind in ("softmax by hand", "mean of two"):
        assert torch.equal(probabilities, net(model.example))


@pytest.mark.parametrize(
    ("problem", "width", "task"),
    [("regression", 1, "regression"), ("regression", 4, "regression"),
     ("multi_label_classification", 4, "multilabel"), ("single_label_classification", 1, "binary")],
)  # fmt: skip
def test_a_configuration_of_transformers_is_believed(problem, width, task):
    net = Ends(width)
    net.config = SimpleNamespace(problem_type=problem)
    assert subject(net).answer.task == task


@pytest.mark.parametrize(("width", "task"), [(4, "binary"), (1, "multiclass")])
def test_a_task_that_does_not_fit_is_refused(width, task):
    with pytest.raises(ModelError) as error:
        _ = subject(Ends(width), task=task).answer
    assert_says(error.value, f"The task is '{task}'", f"{width} value", "one per class")


def test_values_and_embeddings_have_no_prediction():
    x = subject(Ends(4)).example[:2]
    for task in ("regression", "embedding"):
        model = subject(Ends(4), task=task)
        with pytest.raises(ModelError, match="task='multiclass'"):
            explain_batch(engine_for(model, ["conv"], "epsilon"), x, ["conv"])
        with pytest.raises(ModelError):
            model.answer.loss(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    only = subject(Ends(1), task="regression")
    targets, _ = explain_batch(engine_for(only, ["conv"], "epsilon"), x, ["conv"])
    assert targets.tolist() == [0, 0]


def test_a_score_that_is_not_a_number_is_no_prediction():
    answer = subject(Ends(3)).answer
    scores = torch.tensor([[1.0, 2, 0], [torch.nan, 2, 0], [torch.inf, 2, 0], [-torch.inf, -9, -8]])
    assert answer.predicted(scores).tolist() == [1, -1, 0, 2]


# -- one logit, and functions ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        (None, ["positive", "negative"]),
        (["tumour"], ["tumour", "not tumour"]),
        (["healthy", "tumour"], ["healthy", "tumour"]),
    ],
)
def test_one_logit_speaks_for_its_class_and_against_the_other(classes, names):
    model = subject(Ends(1), classes=classes)
    answer, x = model.answer, model.example[:3]
    positive = 1 if classes and len(classes) == 2 else 0
    assert list(model.class_names) == names
    z = model.module(x).detach()[:, 0]
    scores = answer.run(model.module, x)
    torch.testing.assert_close(scores[:, positive], z)
    torch.testing.assert_close(scores[:, 1 - positive], -z)
    torch.testing.assert_close(answer.probabilities(scores)[:, positive], z.sigmoid())
    assert answer.predicted(scores).tolist() == [positive if v > 0 else 1 - positive for v in z]
    truth = torch.full((3,), positive)
    expected = functional.binary_cross_entropy_with_logits(z.float(), torch.ones(3))
    torch.testing.assert_close(answer.loss(scores, truth), expected)
    engine = engine_for(model, ["conv"], "epsilon", classes=True)
    own, other = (class_relevance(engine, x, t)["conv"] for t in (truth, 1 - truth))
    torch.testing.assert_close(own, -other)
    with pytest.raises(RelevanceError, match="from 0 to 1"):
        class_seed(engine.trace(x), torch.tensor([[2, 0, 0]]))


def test_relevance_passes_through_the_function_that_was_given():
    def difference(output):
        return torch.stack([output[:, 0] - output[:, 1], output[:, 2]], 1)

    model, plain = subject(Ends(3), output=difference), subject(Ends(3))
    x = model.example[:2]
    engine = engine_for(model, ["conv", "head"], "epsilon", classes=True)
    assert engine.rules.name == "epsilon"
    assert engine.layers == ["conv", "head"]
    found = class_relevance(engine, x, torch.tensor([0, 0]))["conv"]
    parts = engine_for(plain, ["conv"], "epsilon", classes=True)
    a, b = (class_relevance(parts, x, torch.tensor([k, k]))["conv"] for k in (0, 1))
    torch.testing.assert_close(found, a - b)


def test_the_answer_is_that_of_the_same_pass_also_with_one_image_at_a_time():
    class OneByOne(Ends):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) != 1:
                raise RuntimeError("one image, please")
            return super().forward(x)

    net = OneByOne(3, nn.Softmax(1)).double().eval()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    assert find_answer(net, x).ends_in == "softmax"
