"""Models of which parts are compiled, parallel or TorchScript."""

from __future__ import annotations

import pytest
import torch
from conftest import assert_says, to_tensor
from torch import nn
from torch.utils.checkpoint import checkpoint

from semlens.errors import LayerError, ModelError
from semlens.models.activations import first_tensor
from semlens.models.hooks import evaluating, run_layers
from semlens.models.inspection import layers
from semlens.models.subject import SubjectModel
from semlens.relevance.class_relevance import class_relevance
from semlens.relevance.make_engine import make_engine


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.head = nn.Linear(4, 2)
        self.run = self.body.__call__

    def forward(self, x):
        return self.head(self.run(x).relu().mean((2, 3)))


def change(net, how):
    """Return the net, and the name of its first convolution."""
    match how:
        case "a part":
            net.body = torch.compile(net.body, backend="eager")
            net.run = net.body
            return net, "body._orig_mod.0"
        case "in place":
            net.body.compile(backend="eager")
        case "the model in place":
            net.compile(backend="eager")
        case "the model":
            net = torch.compile(net, backend="eager")
        case "forward":
            net.forward = torch.compile(net.forward, backend="eager")
        case "a function":
            net.run = torch.compile(lambda x: net.body(x), backend="eager")
        case "parallel":
            net = nn.DataParallel(torch.compile(net, backend="eager"))
        case "checkpoint":
            net.run = lambda x: checkpoint(net.body, x, use_reentrant=False)
    return net, "body.0"


WRAPPED = ["a part", "in place", "the model in place", "the model", "forward", "a function",
           "parallel", "checkpoint"]  # fmt: skip


@pytest.mark.parametrize("how", WRAPPED)
def test_layers_inside_of_wrapped_parts_are_read(how):
    x = torch.rand(2, 3, 8, 8)
    net, name = change(Net().eval(), how)
    with torch.inference_mode():
        net(x)  # is compiled now, before there are hooks
    model = SubjectModel(net, to_tensor, "v")
    read = run_layers(model.module, x, [name], lambda _, output: first_tensor(output).clone())
    torch.testing.assert_close(read[name], Net().body[0](x))
    listed = layers(model).to_pandas()
    assert listed.set_index("layer").at[name, "runs"] == 1


@pytest.mark.parametrize("how", ["a part", "the model"])
def test_relevance_of_a_compiled_model_is_the_model_s(how):
    x, targets = torch.rand(2, 3, 8, 8), torch.tensor([0, 1])
    net, name = change(Net().eval(), how)
    got = class_relevance(make_engine(net, x, [name], "epsilon"), x, targets)[name]
    plain = class_relevance(make_engine(Net(), x, ["body.0"], "epsilon"), x, targets)["body.0"]
    torch.testing.assert_close(got, plain)


def test_compiling_goes_on_afterwards():
    calls = []

    def backend(graph, _):
        calls.append(graph)
        return graph.forward

    net, x = nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8)
    compiled = torch.compile(net, backend=backend)
    with evaluating(compiled), evaluating(net):
        compiled(x)
    assert not calls
    compiled(x)
    assert calls


@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.rand(1, 3, 8, 8))]
)
def test_torchscript_inside_of_a_model_is_named(make):
    net = Net().eval()
    net.body = make(net.body)
    net.run = net.body
    model, x = SubjectModel(net, to_tensor, "v"), torch.rand(2, 3, 8, 8)
    for name in ("body", "body.0"):
        with pytest.raises(LayerError) as caught:
            run_layers(model.module, x, [name], lambda _, output: output)
        assert_says(caught.value, name, "TorchScript", "scripted or traced from")
    assert layers(model).to_pandas()["layer"].tolist() == ["head"]
    with pytest.raises(ModelError) as caught:
        make_engine(make(Net().body), x, [])
    assert_says(caught.value, "TorchScript")


def test_a_layer_whose_weights_only_are_used_did_not_run():
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)
            return self.attention(x, x, x)[0].mean(1)

    with pytest.raises(LayerError) as caught:
        run_layers(Attending(), torch.rand(1, 3, 4, 4), ["attention.out_proj"], lambda *_: None)
    assert_says(caught.value, "attention.out_proj", "did not run", "without calling it")
