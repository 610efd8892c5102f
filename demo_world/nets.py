"""Networks of the subjects: creation, saving and loading. Needs no source pictures."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from demo_world.mobile import Mobile
from demo_world.vgg import Vgg
from semlens.models.demo import INPUT_SIZE, PREPROCESS, DemoNet, load_demo_net, preprocess
from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint
from semlens.types import Readout

# Arguments of timm's VisionTransformer, whose head reads the class token.
VIT: Mapping[str, int] = MappingProxyType(
    {
        "img_size": INPUT_SIZE,
        "patch_size": 8,
        "embed_dim": 96,
        "depth": 4,
        "num_heads": 4,
        "mlp_ratio": 2,
    }
)
BLOCKS = 3  # last blocks of a ViT whose components are searched


def make_vit(classes: int) -> VisionTransformer:
    """Return an untrained ViT."""
    return VisionTransformer(**VIT, num_classes=classes)


def layers_of(net: nn.Module) -> tuple[str, ...]:
    """Return the layers that are pruned and searched: late stages of a CNN, late blocks of a ViT.

    A block's output is the residual stream after it.
    """
    if isinstance(net, DemoNet):
        return ("layer2", "layer3")
    if isinstance(net, Vgg):
        return ("stage3", "stage4")
    if isinstance(net, Mobile):
        return ("stage2", "stage3")
    depth = len(net.get_submodule("blocks"))
    return tuple(f"blocks.{i}" for i in range(depth - BLOCKS, depth))


def readout_of(net: nn.Module) -> Readout:
    """Return the readout of a subject's components: mean over space, or a ViT's class token.

    A ViT need not encode the mark in its other tokens, and does not: no component shows it in the
    mean over all tokens.
    """
    return "cls" if isinstance(net, VisionTransformer) else "mean"


def as_subject(net: nn.Module, classes: Sequence[str], spec: str) -> SubjectModel:
    """Return a trained network with its preprocessing as a subject model."""
    return SubjectModel(net, preprocess, fingerprint(dict(PREPROCESS)), spec, tuple(classes))


def subject_file(folder: Path, architecture: str, seed: int) -> Path:
    """Return the file of a world's subject; the bundled architecture has the plain name."""
    name = "subject" if architecture == "demo" else f"subject-{architecture}"
    return folder / f"{name}-{seed}.safetensors"


def save_subject(net: nn.Module, path: Path) -> None:
    """Write fp16 safetensors, with the arguments of the module in the metadata."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in net.state_dict().items()
    }
    if isinstance(net, DemoNet):
        stages = (net.layer1, net.layer2, net.layer3)
        widths = [net.stem[0].out_channels, *(stage.conv1.out_channels for stage in stages)]
        metadata = {"widths": ",".join(str(width) for width in widths)}
    elif isinstance(net, Vgg):
        stages = (net.stage1, net.stage2, net.stage3, net.stage4)
        metadata = {"vgg": ",".join(str(stage[0].out_channels) for stage in stages)}
    elif isinstance(net, Mobile):
        stages = (net.stage1, net.stage2, net.stage3)
        widths = [net.stem[0].out_channels, *(stage[-1][3].out_channels for stage in stages)]
        metadata = {"mobile": ",".join(str(width) for width in widths)}
    else:
        metadata = {"vit": json.dumps(dict(VIT))}
    save_file(state, path, metadata=metadata)


def load_subject(path: Path) -> nn.Module:
    """Load a subject of any architecture, in evaluation mode."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "widths" in metadata:
        return load_demo_net(path)
    state = load_file(path)
    classes = len(state["head.bias"])
    for name, make in (("vgg", Vgg), ("mobile", Mobile)):
        if name in metadata:
            first, second, third, fourth = (int(width) for width in metadata[name].split(","))
            net = make(classes, (first, second, third, fourth))
            break
    else:
        net = VisionTransformer(**json.loads(metadata["vit"]), num_classes=classes)
    net.load_state_dict(state)  # copies fp16 into float32
    return net.eval()
