"""Targets: how they are written, and their values and gradients against autograd in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from target_models import CLASSES, Classifier, Detector, Segmenter, Suppressed
from torch.nn import functional
from torchvision.ops import box_iou

import semlens as sl
from semlens.errors import RelevanceError
from semlens.models.model_output import ModelOutput
from semlens.models.target import Target
from semlens.relevance.class_relevance import class_relevance, class_seed, target_seed
from semlens.relevance.conservation import LINEARISED, check_conservation
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.make_engine import make_engine
from semlens.relevance.protocols import OUTPUT

IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
ZERO = sl.Rules("zero", "epsilon", "epsilon", "epsilon", epsilon=1e-12)
FUNCTION = "def total(output):\n    return output['out'][:, 1].square().mean((1, 2))\n"


def parse(text: str) -> Target:
    return Target.parse(text, CLASSES)


def refused(says: str, call, *arguments) -> None:
    with pytest.raises(RelevanceError) as caught:
        call(*arguments)
    assert says in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("text", "name", "index"),
    [
        ("dog", "dog", 1),
        ("2", "2", 2),
        (" dog - cat ", "dog - cat", None),
        ("dog + bus + 0", "dog + bus + 0", None),
        ("box:bus@1,2.5,30,31", "box:bus@1,2.5,30,31", None),
        ("box:bus@17", "box:bus@17", None),
        ("region:road", "region:road", None),
        ("region:road@0,0,8,8", "region:road@0,0,8,8", None),
    ],
)
def test_a_target_is_written_as_it_is_named(text, name, index):
    target = parse(text)
    assert (target.name, target.index) == (name, index)
    assert target.key == parse(target.name).key
    others = {parse(other).key for other in ("cat", "cat - dog", "box:cat@3", "region:cat")}
    assert target.key not in others and len(others) == 4


def test_a_class_is_named_before_any_form():
    odd = ["T - shirt", "shirt", "tie", "box:1", "a - b", "a", "b - c", "c"]
    assert Target.parse("T - shirt", odd).index == 0
    assert Target.parse("box:1", odd).index == 3
    assert Target.parse("shirt - T - shirt", odd).terms == ((1, 1.0), (0, -1.0))
    refused("can be read in 2 ways", Target.parse, "a - b - c", odd)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("yeti", "named 'yeti'"),
        ("cat - yeti", "cat - yeti"),
        ("", "The target is ''"),
        ("box:cat", "Expected CLASS@x0,y0,x1,y1"),
        ("box:cat@9,9,1,1", "with x0 < x1"),
        ("region:", "The target is 'region:'"),
        ("similar:a red bus", "Expected an embedder"),
        ("nowhere.py:f", "is not a file"),
    ],
)
def test_what_is_no_target_is_refused(text, says):
    refused(says, parse, text)


def by_hand(text: str, output) -> torch.Tensor:
    """Each target again, written out on the output."""
    if text == "dog - cat":
        return output[:, 1] - output[:, 0]
    if text == "dog + bus":
        return output[:, 1] + output[:, 2]
    if text == "region:dog@4,8,20,16":
        return output["out"][:, 1, 8:16, 4:20].mean((1, 2))
    if text == "region":
        best = output["out"].argmax(1)
        return torch.stack(
            [one[0][where == 0].mean() for one, where in zip(output["out"], best, strict=True)]
        )
    if text.startswith("box"):
        given = torch.tensor([[6.0, 6.0, 14.0, 14.0]], dtype=torch.float64)
        boxes = output["boxes"].detach()
        # small anchors around the given one: the largest IoU is positive, so that of GIoU as well
        best = [int(box_iou(one, given)[:, 0].argmax()) for one in boxes]
        return torch.stack([output["logits"][i, k, 2] for i, k in enumerate(best)])
    raise AssertionError(text)


@pytest.mark.parametrize(
    ("text", "make"),
    [
        ("dog - cat", Classifier),
        ("dog + bus", Classifier),
        ("region:dog@4,8,20,16", Segmenter),
        ("box:bus@6,6,14,14", Detector),
    ],
)
def test_values_and_gradients_are_those_of_autograd(text, make):
    net = make().double().eval()
    found, expected = (IMAGES.clone().requires_grad_() for _ in range(2))
    target = parse(text)
    value = target.value(ModelOutput(net(found), None, None, (32, 32)))
    oracle = by_hand(text, net(expected))
    assert torch.allclose(value, oracle, atol=1e-12)
    value.sum().backward()
    oracle.sum().backward()
    assert expected.grad.abs().max() > 1e-4
    assert torch.allclose(found.grad, expected.grad, atol=1e-12)


def test_a_region_is_where_the_class_is_predicted_and_is_held():
    net = Segmenter().double().eval()
    output = net(IMAGES)
    most = int(output["out"].argmax(1).flatten().mode().values)
    target = Target.region(most)
    where = output["out"].argmax(1) == most
    expected = torch.stack([m[most][w].mean() for m, w in zip(output["out"], where, strict=True)])
    whole = ModelOutput(output, None, None, (32, 32))
    assert torch.allclose(target.value(whole), expected)
    other = ModelOutput({"out": -output["out"], "aux": output["aux"]}, None, None, (32, 32))
    held = target.held_value(other, target.choice(whole))
    assert torch.allclose(held, -expected)
    absent = next(c for c in range(4) if not (output["out"].argmax(1) == c).any())
    assert Target.region(absent).value(whole).tolist() == [0, 0, 0]


def test_boxes_as_shares_of_the_image_are_those_in_pixels():
    corners, shares = Detector().double(), Detector(normalised=True).double()
    shares.load_state_dict(corners.state_dict())
    size = corners(IMAGES)["boxes"]
    centred = size.clone()
    half = (size[..., 2:] - size[..., :2]) / 16  # the shares are those of eighths
    middle = (size[..., 2:] + size[..., :2]) / 2
    centred = torch.cat([middle - half / 2, middle + half / 2], -1)
    target = parse("box:cat@5,5,9,9")
    first = ModelOutput({"logits": corners(IMAGES)["logits"], "boxes": centred}, size=(32, 32))
    second = ModelOutput(shares(IMAGES), None, None, (32, 32))
    assert torch.equal(target.choice(first), target.choice(second))
    assert torch.allclose(target.value(first), target.value(second))
    swapped = {"logits": corners(IMAGES)["logits"], "boxes": size.flip(-1)}
    refused("Expected corners in pixels", target.value, swapped)


def test_after_suppression_a_box_is_looked_for_among_those_of_its_class():
    net = Suppressed().double().eval()
    result = net(IMAGES)
    kept = result[0]
    label, box = int(kept["labels"][0]), kept["boxes"][0].tolist()
    value = Target.box(label, box).value(result)
    assert value[0] == kept["scores"][0]
    missing = next(c for c in range(4) if c not in kept["labels"])
    assert Target.box(missing, box).value(result)[0] == 0
    refused("before_suppression", Target.box(label, 3).value, result)


def test_similarity_is_the_cosine_with_its_norm_held():
    net = Classifier().double().eval()
    vector = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    target = Target.similar("a red bus", vector)
    scores = net(IMAGES).detach().requires_grad_()
    value = target.value(scores)
    assert torch.allclose(value, torch.cosine_similarity(scores, vector[None]))
    value.sum().backward()
    norm = scores.detach().norm(dim=1, keepdim=True)
    assert torch.allclose(scores.grad, vector / vector.norm() / norm)
    short = Target.similar("a red bus", vector[:2])
    refused("vector of 2 numbers", short.value, scores)


def test_the_seed_of_a_class_is_that_of_its_logit():
    net = Classifier().eval()
    engine = LRPEngine(net, IMAGES.float(), ["first"])
    trace = engine.trace(IMAGES.float())
    seed = target_seed(trace, Target.logit(2))
    expected = class_seed(trace, torch.full((1, 3), 2))
    assert torch.equal(seed.signals[OUTPUT].values, expected.values)
    assert torch.equal(seed.value, trace.logits[:, 2])


@pytest.mark.parametrize(
    ("text", "make"),
    [
        ("dog - cat", Classifier),
        ("region:dog@4,8,20,16", Segmenter),
        ("box:bus@6,6,14,14", Detector),
    ],
)
@pytest.mark.parametrize("rules", ["epsilon", "gradient"])
def test_relevance_is_gradient_times_input_without_biases(text, make, rules):
    """All layers are linear or ReLU, so that LRP-0 and gradient x input are equal (paper, H.2)."""
    net = make(bias=False).double().eval()
    rules = (
        sl.Rules("zero", "epsilon", "epsilon", "epsilon", epsilon=1e-12)
        if rules == "epsilon"
        else rules
    )
    target, layers = parse(text), ["first", "second"]
    engine = make_engine(net, IMAGES, layers, rules, outputs=True)
    trace = engine.trace(IMAGES)
    seed = target_seed(trace, target)
    heat = trace.backward(seed.signals, layers)
    inputs = IMAGES.clone().requires_grad_()
    kept = {}
    hooks = [
        getattr(net, name).register_forward_hook(lambda _, __, v, n=name: kept.update({n: v}))
        for name in layers
    ]
    value = target.value(ModelOutput(net(inputs), None, None, (32, 32)))
    gradients = torch.autograd.grad(value.sum(), [inputs, kept["first"], kept["second"]])
    for hook in hooks:
        hook.remove()
    assert torch.allclose(seed.value, value, atol=1e-9)
    assert torch.allclose(heat.heatmaps[0], (gradients[0] * inputs).sum(1), atol=1e-8)
    found = class_relevance(engine, IMAGES, target, layers)
    for name, gradient in zip(layers, gradients[1:], strict=True):
        assert torch.allclose(found[name].double(), (gradient * kept[name]).sum((2, 3)), atol=1e-6)
    if rules != "gradient":
        check = check_conservation(engine, IMAGES, target)
        assert abs(check.residual).max() < 1e-8
        assert abs(check.absorbed[LINEARISED]).max() < 1e-9
        assert check.pixels == pytest.approx(value.detach().numpy(), abs=1e-8)


def test_what_a_linearisation_leaves_out_is_shown(tmp_path):
    """The square is not linear: gradient times output is twice its value."""
    (tmp_path / "own.py").write_text(FUNCTION)
    target = Target.parse(f"{tmp_path / 'own.py'}:total")
    assert target.name == "own.py:total"
    net = Segmenter(bias=False).double().eval()
    engine = make_engine(net, IMAGES, ["second"], ZERO, outputs=True)
    check = check_conservation(engine, IMAGES, target)
    value = net(IMAGES)["out"][:, 1].square().mean((1, 2)).detach().numpy()
    assert check.start == pytest.approx(value)
    assert check.absorbed[LINEARISED] == pytest.approx(-value)
    assert check.pixels == pytest.approx(2 * value)
    assert abs(check.residual).max() < 1e-8
    assert "linearisation of the target" in repr(check)
    (tmp_path / "own.py").write_text(FUNCTION + "# changed\n")
    assert Target.parse(f"{tmp_path / 'own.py'}:total").key != target.key


def test_a_function_must_return_a_value_per_image():
    net = Segmenter().eval()
    engine = make_engine(net, IMAGES.float(), ["second"], outputs=True)
    trace = engine.trace(IMAGES.float())
    for function, says in (
        (lambda output: output["out"], "returns [3, 4, 32, 32]"),
        (lambda output: output["nothing"], "KeyError"),
        (lambda output: torch.ones(3), "does not depend on the output"),
    ):
        target = Target.function(function)
        refused(says, target_seed, trace, target)
    plain = make_engine(Classifier().eval(), IMAGES.float(), ["second"])
    refused("outputs=True", target_seed, plain.trace(IMAGES.float()), Target.region(0))


def test_places_of_boxes_need_no_rule_but_cannot_be_targets():
    engine = make_engine(Detector().eval(), IMAGES.float(), ["second"], "epsilon", outputs=True)
    trace = engine.trace(IMAGES.float())
    target_seed(trace, parse("box:cat@4,4,9,9"))
    width = Target.function(lambda output: output["boxes"][:, 0, 2])
    seed = target_seed(trace, width)
    refused("without a relevance rule: exp", trace.backward, seed.signals)


@pytest.mark.parametrize(
    ("make", "text", "says"),
    [
        (Classifier, "9", "not a class of the model"),
        (Classifier, "region:cat", "Expected one tensor of logits by place"),
        (Classifier, "box:cat@1,1,2,2", "named logits or scores"),
        (Segmenter, "cat", "Expected one row of values per image"),
        (Segmenter, "region:cat@40,40,50,50", "holds no pixel"),
        (Segmenter, "region:7", "from 0 to 3"),
        (Detector, "box:cat@64", "from 0 to 63"),
        (Detector, "box:9@3", "from 0 to 3"),
    ],
)
def test_an_output_without_the_target_is_refused(make, text, says):
    output = ModelOutput(make().double()(IMAGES), None, None, (32, 32))
    refused(says, parse(text).value, output)


def test_a_pass_is_the_models_own_output():
    net = Detector().double().eval()
    before = copy.deepcopy(net.state_dict())
    engine = make_engine(net, IMAGES, ["first"], outputs=True)
    trace = engine.trace(IMAGES)
    rebuilt = trace.leaves.rebuilt(trace.values, len(IMAGES))
    expected = net(IMAGES)
    assert rebuilt.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(rebuilt[name], tensor, atol=1e-9)
    assert all(torch.equal(before[name], v) for name, v in net.state_dict().items())


@pytest.mark.slow
def test_a_detector_of_torchvision_before_suppression():
    from torchvision.models.detection import ssdlite320_mobilenet_v3_large

    torch.manual_seed(0)
    net = ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3).eval()
    images = torch.rand(2, 3, 96, 128)
    kept = {}
    with net.head.register_forward_hook(lambda _, __, output: kept.update(output)):
        suppressed = net([*images])
    model = sl.before_suppression(net)
    output = model(images)
    assert torch.equal(output["logits"], kept["cls_logits"])
    assert output["boxes"].shape == (2, output["logits"].shape[1], 4)
    for detections, boxes in zip(suppressed, output["boxes"], strict=True):
        inside = torch.stack(
            [boxes[:, 0::2].clamp(0, 128), boxes[:, 1::2].clamp(0, 96)], -1
        ).flatten(1)
        distances = torch.cdist(
            detections["boxes"], inside, compute_mode="donot_use_mm_for_euclid_dist"
        )
        assert len(distances) and distances.min(1).values.max() < 1e-3
    score = functional.softmax(output["logits"], -1)
    assert float(score[..., 1:].max()) == pytest.approx(
        max(float(one["scores"].max()) for one in suppressed), abs=1e-5
    )
    assert set(dict(net.named_modules())) == set(model.layers())


def test_a_detector_by_name_returns_all_boxes_and_downloads_nothing():
    model = sl.load_model("torchvision/ssdlite320_mobilenet_v3_large", random_weights=0)
    with torch.no_grad():
        output = model.module.eval()(torch.rand(1, 3, 64, 64))
    assert output["logits"].shape == (1, 3234, 91) and output["boxes"].shape == (1, 3234, 4)
    assert "box:CLASS" in str(model.answer_error)
