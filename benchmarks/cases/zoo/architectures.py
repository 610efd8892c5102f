"""The architectures of the zoo: small variants of the libraries, and handwritten networks.

Weights are random: nothing is downloaded. Some have fewer blocks than the published variants, and
smaller inputs, so that the zoo is quick: what matters are the operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.cases.zoo.handwritten import CLASSES, HANDWRITTEN


@dataclass(frozen=True)
class Architecture:
    """A network by name, and the side of its input in pixels."""

    name: str
    make: Callable[[], nn.Module]
    side: int = 64

    def module(self) -> nn.Module:
        """Return the network in eval mode, with weights from a seed and no path switched off.

        Parameters that are all equal (zero heads, layer scales, biases) get random values: at
        their initial ones, whole branches would contribute nothing.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = self.make().eval()
            for parameter in module.parameters():
                if bool((parameter == parameter.flatten()[0]).all()):
                    parameter.data += 0.1 * torch.randn_like(parameter)
            _calibrate(module, torch.randn(8, 3, self.side, self.side))
        return module


def _calibrate(module: nn.Module, batch: Tensor) -> None:
    """Give batch normalisations the statistics of a batch; untrained ones let values explode."""
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    with torch.no_grad():
        module(batch)
    for norm in norms:
        norm.eval()


def _torchvision(name: str, side: int, **settings: Any) -> Architecture:
    def make() -> nn.Module:
        from torchvision import models

        sizes = {} if name.startswith("lraspp") else {"num_classes": CLASSES}
        if not sizes:
            settings["weights_backbone"] = None
        return models.get_model(name, weights=None, **sizes, **settings)

    return Architecture(f"torchvision/{name}", make, side)


def _torchvision_small(name: str, side: int, **settings: Any) -> Architecture:
    """Return a class of torchvision with settings of its own."""

    def make() -> nn.Module:
        from torchvision import models

        return getattr(models, name)(num_classes=CLASSES, **settings)

    return Architecture(f"torchvision/{name}", make, side)


def _timm(name: str, side: int = 64, *, parts: Sequence[str] = (), **settings: Any) -> Architecture:
    """Return a model of timm, or a class of it with settings of its own."""

    def make() -> nn.Module:
        import timm

        file, _, network = name.partition(".")
        if network:
            package = getattr(timm.models, file)
            names = zip(("block_layer", "norm_layer", "mlp_layer"), parts, strict=False)
            own = {setting: getattr(package, part) for setting, part in names}
            return getattr(package, network)(num_classes=CLASSES, **settings, **own)
        return timm.create_model(name, pretrained=False, num_classes=CLASSES, **settings)

    return Architecture(" of ".join([f"timm/{name}", *parts[:1]]), make, side)


def _transformers(name: str, side: int = 64, **settings: Any) -> Architecture:
    def make() -> nn.Module:
        import transformers

        kind = getattr(transformers, name)
        config = kind.config_class(**settings)
        if "Classification" in name:
            config.num_labels = CLASSES
        return kind(config)

    return Architecture(f"transformers/{name}", make, side)


_SHORT_VIT: Mapping[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 64, "image_size": 64, "patch_size": 16,
}  # fmt: skip
_BLOCKS = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 48, 64]}

TORCHVISION = (
    _torchvision("alexnet", 64),
    _torchvision("squeezenet1_1", 64),
    _torchvision("resnet18", 64),
    _torchvision("googlenet", 64, aux_logits=False, init_weights=False),
    _torchvision("mobilenet_v2", 64),
    _torchvision("mobilenet_v3_small", 64),
    _torchvision("shufflenet_v2_x0_5", 64),
    _torchvision("mnasnet0_5", 64),
    _torchvision("lraspp_mobilenet_v3_large", 64),
    _torchvision_small(
        "DenseNet", 64, growth_rate=12, block_config=(2, 2, 2), num_init_features=16
    ),
    _torchvision_small(
        "SwinTransformer", 64, patch_size=[4, 4], embed_dim=24, depths=[2, 2], num_heads=[2, 4],
        window_size=[4, 4],
    ),
    _torchvision_small(
        "VisionTransformer", 64, image_size=64, patch_size=16, num_layers=2, num_heads=2,
        hidden_dim=32, mlp_dim=64,
    ),
    _torchvision_small(
        "MaxVit", 64, input_size=(64, 64), stem_channels=16, partition_size=2,
        block_channels=[16, 32], block_layers=[1, 1], head_dim=8, stochastic_depth_prob=0.0,
    ),
)  # fmt: skip
_GATED = ("SpatialGatingBlock", "Affine", "GatedMlp")
_MIXER: Mapping[str, Any] = {"img_size": 64, "num_blocks": 2, "embed_dim": 64}
TIMM = (
    _timm("resnet10t"),
    _timm("resnetv2_50", layers=[1, 1, 1, 1]),
    _timm("res2net50_14w_8s", layers=[1, 1, 1, 1]),
    _timm("resnest14d"),
    _timm("skresnet18", layers=[1, 1, 1, 1]),
    _timm("ese_vovnet19b_dw"),
    _timm("tf_efficientnet_lite0"),
    _timm("repvgg_a0"),
    _timm("convnextv2_atto", depths=(1, 1, 1, 1)),
    _timm("inception_next_atto", depths=(1, 1, 1, 1)),
    _timm("convmixer.ConvMixer", dim=32, depth=2, kernel_size=5, patch_size=4),
    _timm("mambaout_femto", depths=(1, 1, 1, 1)),
    _timm("starnet.StarNet", base_dim=16, depths=(1, 1, 1, 1)),
    _timm("mlp_mixer.MlpMixer", **_MIXER),
    _timm("mlp_mixer.MlpMixer", **_MIXER, mlp_ratio=4, parts=("ResBlock", "Affine", "Mlp")),
    _timm("mlp_mixer.MlpMixer", **_MIXER, mlp_ratio=6, parts=_GATED),
    _timm("vit_tiny_patch16_224", img_size=64, depth=2),
    _timm("deit_tiny_distilled_patch16_224", img_size=64, depth=2),
    _timm("eva02_tiny_patch14_224", 70, img_size=70, depth=2),
    _timm("cait_xxs24_224", img_size=64, depth=2),
    _timm("xcit_nano_12_p16_224", img_size=64, depth=2),
    _timm("pit_ti_224", img_size=64, depth=(1, 1, 1)),
    _timm("pvt_v2_b0", depths=(1, 1, 1, 1)),
    _timm("mobilevit_xxs"),
    _timm("edgenext_xx_small", depths=(1, 1, 2, 1)),
    _timm("efficientvit_b0", depths=(1, 1, 1, 1)),
    _timm("sequencer2d_s", layers=(1, 1, 1, 1)),
    _timm("fastvit_t8", layers=(1, 1, 1, 1)),
)
TRANSFORMERS = (
    _transformers("ViTForImageClassification", **_SHORT_VIT),
    _transformers("DeiTForImageClassification", **_SHORT_VIT),
    _transformers("BeitForImageClassification", **_SHORT_VIT),
    _transformers("Dinov2ForImageClassification", **{**_SHORT_VIT, "patch_size": 16}),
    _transformers("SiglipVisionModel", **_SHORT_VIT),
    _transformers("CLIPVisionModel", **_SHORT_VIT),
    _transformers("ResNetForImageClassification", embedding_size=16, **_BLOCKS),
    _transformers("RegNetForImageClassification", embedding_size=16, **_BLOCKS, groups_width=8),
    _transformers("ConvNextForImageClassification", **_BLOCKS),
    _transformers("MobileNetV2ForImageClassification", depth_multiplier=0.35),
    _transformers("MobileViTForImageClassification", image_size=64),
    _transformers(
        "SegformerForImageClassification", depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 64, 64]
    ),
    _transformers("PoolFormerForImageClassification", depths=[1, 1, 1, 1]),
    _transformers(
        "SwinForImageClassification", image_size=64, embed_dim=24, depths=[2, 2],
        num_heads=[2, 4], window_size=4,
    ),
    _transformers(
        "Swinv2ForImageClassification", image_size=64, embed_dim=24, depths=[2, 2],
        num_heads=[2, 4], window_size=4,
    ),
    _transformers(
        "FocalNetForImageClassification", image_size=64, embed_dim=24, depths=[1, 1],
        focal_levels=[2, 2], focal_windows=[3, 3], hidden_sizes=[24, 48],
    ),
)  # fmt: skip
ARCHITECTURES = {
    one.name: one
    for one in (
        *TORCHVISION, *TIMM, *TRANSFORMERS,
        *(Architecture(f"own/{name}", make) for name, make in HANDWRITTEN.items()),
    )
}  # fmt: skip
QUICK = ("own/two views", "own/GLU and softplus", "own/LSTM")
