"""Whole networks: every family is captured, computes what the model does, and conserves."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from semlens.relevance.assign_rules import assign_rules
from semlens.relevance.backward_signal import BackwardSignal
from semlens.relevance.lrp_engine import LRPEngine
from semlens.relevance.presets import preset
from semlens.relevance.protocols import OUTPUT


def torchvision_model(name, **options):
    models = pytest.importorskip("torchvision.models")
    return getattr(models, name)(**options)


def vgg():
    from torchvision.models.vgg import VGG, make_layers

    net = VGG(make_layers([8, "M", 16, 16, "M"], batch_norm=True), 10, init_weights=False)
    net.classifier = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 10))
    return net


def resnet():
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=10)


def plain_resnet():
    from torchvision.models.resnet import BasicBlock, ResNet

    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)


def efficientnet():
    from torchvision.models.efficientnet import EfficientNet, MBConvConfig

    blocks = [MBConvConfig(2, 3, 1, 32, 8, 1, 1.0, 1.0), MBConvConfig(4, 5, 2, 8, 16, 2, 1.0, 1.0)]
    return EfficientNet(blocks, 0.0, num_classes=10, last_channel=32)


def mobilenet():
    from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

    blocks = [
        InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
        InvertedResidualConfig(16, 5, 32, 24, True, "HS", 2, 1, 1.0),
        InvertedResidualConfig(24, 5, 48, 24, True, "HS", 1, 1, 1.0),
    ]
    return MobileNetV3(blocks, 32, num_classes=10)


def convnext():
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], num_classes=10)


def densenet():
    from torchvision.models import DenseNet

    return DenseNet(8, (2, 2), 16, num_classes=10)


def swin(version=1):
    from torchvision.models.swin_transformer import (
        PatchMerging,
        PatchMergingV2,
        SwinTransformer,
        SwinTransformerBlock,
        SwinTransformerBlockV2,
    )

    block = SwinTransformerBlock if version == 1 else SwinTransformerBlockV2
    merge = PatchMerging if version == 1 else PatchMergingV2
    # 16 patches a side in windows of 4, so that windows are shifted and masked
    return SwinTransformer(
        [4, 4], 16, [2, 1], [2, 4], [4, 4], 2.0, stochastic_depth_prob=0.0, num_classes=10,
        block=block, downsample_layer=merge,
    )  # fmt: skip


def vit():
    from torchvision.models import VisionTransformer

    return VisionTransformer(32, 8, 2, 4, 32, 64, num_classes=10)


def timm(name, **options):
    return pytest.importorskip("timm").create_model(name, num_classes=10, **options)


def transformers(kind, **options):
    """A model of a Hugging Face family, with a head where it has one."""
    library = pytest.importorskip("transformers")
    return getattr(library, kind[0])(getattr(library, kind[1])(num_labels=10, **options))


WIDE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4}
FAMILIES = {
    "torchvision vgg11_bn": (vgg, 32),
    "torchvision resnet18": (plain_resnet, 32),
    "torchvision resnet50": (resnet, 32),
    "torchvision efficientnet": (efficientnet, 32),
    "torchvision mobilenet_v3": (mobilenet, 32),
    "torchvision convnext": (convnext, 32),
    "torchvision densenet": (densenet, 32),
    "torchvision swin": (swin, 64),
    "torchvision swin_v2": (lambda: swin(2), 64),
    "torchvision vit": (vit, 32),
    "timm resnet50": (lambda: timm("resnet50", layers=(1, 1, 1, 1), channels=(32, 64, 64, 64)), 32),
    "timm efficientnet": (lambda: timm("tinynet_e"), 32),
    "timm convnextv2": (
        lambda: timm("convnextv2_atto", depths=(1, 1, 1, 1), dims=(8, 16, 16, 16)),
        32,
    ),
    "timm vit": (lambda: timm("vit_tiny_patch16_224", **SMALL_VIT), 32),
    "timm deit3": (lambda: timm("deit3_small_patch16_224", **SMALL_VIT), 32),
    "timm dinov2 with registers": (
        lambda: timm("vit_small_patch14_reg4_dinov2", **{**SMALL_VIT, "patch_size": 8}),
        32,
    ),
    "timm dinov2 with SwiGLU": (
        lambda: timm("vit_giant_patch14_dinov2", **{**SMALL_VIT, "patch_size": 8}),
        32,
    ),
    "timm swin": (
        lambda: timm(
            "swin_tiny_patch4_window7_224", img_size=64, window_size=4, embed_dim=16,
            depths=(2, 1), num_heads=(2, 4),
        ),
        64,
    ),
    "timm eva": (lambda: timm("eva02_tiny_patch14_224", **SMALL_VIT), 32),
    "transformers vit": (
        lambda: transformers(
            ("ViTForImageClassification", "ViTConfig"),
            image_size=32, patch_size=8, intermediate_size=64, **WIDE,
        ),
        32,
    ),
    "transformers dinov2": (
        lambda: transformers(
            ("Dinov2ForImageClassification", "Dinov2Config"), image_size=32, patch_size=8, **WIDE
        ),
        32,
    ),
    "transformers swin": (
        lambda: transformers(
            ("SwinForImageClassification", "SwinConfig"),
            image_size=64, window_size=4, embed_dim=16, depths=[2, 1], num_heads=[2, 4],
        ),
        64,
    ),
    "transformers clip": (
        lambda: transformers(
            ("CLIPVisionModel", "CLIPVisionConfig"),
            image_size=32, patch_size=8, intermediate_size=64, **WIDE,
        ),
        32,
    ),
    "transformers convnext": (
        lambda: transformers(
            ("ConvNextForImageClassification", "ConvNextConfig"),
            hidden_sizes=[8, 16], depths=[1, 1], num_stages=2,
        ),
        32,
    ),
}  # fmt: skip
EXACT = ("torchvision vgg11_bn", "torchvision resnet18", "torchvision resnet50", "timm resnet50")
"""With z+ and flat too: inputs of all convolutions behind the first are never negative."""

CONSTANTS = ("bias", "pos_embed", "position_embedding", "pos_embedding", "cls_token", "class_",
             "reg_token", "mask_token", "k_bias", "relative_position")  # fmt: skip
SCALES = ("gamma", "layer_scale", "lambda1", "weight_gamma")


def without_biases(make, size):
    """A model whose relevance has nowhere to stay, in float64, and two images."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = make().eval().requires_grad_(False)
    x = torch.randn(8, 3, size, size)
    norms = [part for part in net.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    if norms:
        net.train()(x)
        net.eval()
    for norm in norms:
        norm.running_mean.zero_()
        norm.weight.uniform_(0.7, 1.3)
    for name, value in net.named_parameters():
        if any(word in name for word in CONSTANTS):
            value.zero_()
        if any(word in name for word in SCALES) and value.ndim < 3:
            value.fill_(0.5)
        if ("head" in name or "classifier" in name) and value.ndim == 2:
            nn.init.normal_(value, std=0.1)
    return net.double(), x[:2].double()


def largest_start(trace):
    """Start at the largest output of each image, whatever shape the output has."""
    scores = trace.values[OUTPUT]
    flat = scores.flatten(1)
    one = torch.zeros_like(flat).scatter_(1, flat.argmax(1, keepdim=True), 1)
    return BackwardSignal(one.view_as(scores)[None]), flat.amax(1)


def with_rules(engine, rules):
    """The same captured pass with other rules."""
    other = copy.copy(engine)
    other.rules = preset(rules, epsilon=1e-12)  # conservation is exact without
    other.node_rules = assign_rules(other.graph, other.rules, other._nodes.values())
    return other


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_captured_and_conserve(family):
    net, x = without_biases(*FAMILIES[family])
    with torch.no_grad():
        expected = net(x)
    expected = next(
        (
            value
            for name in ("logits", "pooler_output")
            if (value := getattr(expected, name, None)) is not None
        ),
        expected,
    )
    captured = LRPEngine(net, x, [], "epsilon")
    for rules in ("epsilon", "cp-lrp", *(["epsilon-plus-flat"] if family in EXACT else [])):
        trace = with_rules(captured, rules).trace(x)
        torch.testing.assert_close(trace.values[OUTPUT], expected, atol=1e-8, rtol=1e-6)
        start, logit = largest_start(trace)
        total = trace.backward({OUTPUT: start}).heatmaps[0].sum((1, 2))
        torch.testing.assert_close(total / logit, torch.ones(2).double(), atol=1e-6, rtol=0)
    # AttnLRP keeps a part in the softmax: it covers every operation, and its heat is finite
    trace = with_rules(captured, "attnlrp").trace(x)
    heat = trace.backward({OUTPUT: largest_start(trace)[0]}).heatmaps
    assert torch.isfinite(heat).all() and heat.abs().amax((0, 2, 3)).min() > 0
