"""The bundled foundation model: an image tower and a text tower with a 384-dimensional space.

Small (7.5 MB) and trained in ``demo_world/`` on emoji and clip art only, so that the demo runs
offline. Do not use it for photographs; use a real CLIP for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor, nn

from semlens.embedders.embedder import Embedder
from semlens.recipe import fingerprint
from semlens.regular_files import file_digest

SCALE_SUFFIX = ".scale"


def quantise(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Quantise matrices and kernels to int8 with an fp16 scale per output row, the rest to fp16."""
    packed: dict[str, Tensor] = {}
    for name, value in state.items():
        if not value.is_floating_point():
            continue
        if value.ndim < 2:
            packed[name] = value.half().contiguous()
            continue
        rows = value.detach().flatten(1)
        scale = (rows.abs().amax(1) / 127).clamp(min=1e-7).half()
        rounded = (rows / scale.float()[:, None]).round().clamp(-127, 127)
        packed[name] = rounded.reshape(value.shape).to(torch.int8).contiguous()
        packed[name + SCALE_SUFFIX] = scale
    return packed


def dequantise(packed: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the float32 tensors of a state from :func:`quantise`."""
    state: dict[str, Tensor] = {}
    for name, value in packed.items():
        scale = packed.get(name + SCALE_SUFFIX)
        if scale is not None:
            state[name] = value.float() * scale.float().reshape(-1, *[1] * (value.ndim - 1))
        elif not (name.endswith(SCALE_SUFFIX) and name.removesuffix(SCALE_SUFFIX) in packed):
            state[name] = value.float()
    return state


def save_quantised(module: nn.Module, path: Path) -> None:
    """Write the state of ``module`` to int8 safetensors."""
    save_file(quantise(module.state_dict()), path)


def load_quantised(module: nn.Module, path: Path) -> None:
    """Load int8 safetensors into ``module``; counters that were not stored keep their value."""
    missing, unexpected = module.load_state_dict(dequantise(load_file(path)), strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(
            f"{path} does not match {type(module).__name__}: missing {missing[:3]}, "
            f"unexpected {unexpected[:3]}. Rebuild it with 'python -m demo_world pack'."
        )


DIMENSION = 384
"""Of the space of both towers."""
INPUT_SIZE = 96
"""Side of the image tower's input in pixels."""
IMAGE_ASSET, TEXT_ASSET, VOCABULARY_ASSET = "image.safetensors", "text.safetensors", "vocab.txt"


BODY = "efficientnet_lite0"
BODY_FEATURES = 1280
BATCH_NORM_EPSILON = 1e-3  # as in the published weights; timm's default for this body differs


class ImageTower(nn.Module):
    """EfficientNet-Lite0 body and a linear projection to unit vectors."""

    def __init__(self, dimension: int = DIMENSION) -> None:
        super().__init__()
        import timm  # takes seconds, and a search by text does not need it

        self.body = timm.create_model(BODY, pretrained=False, num_classes=0)
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = BATCH_NORM_EPSILON
        self.projection = nn.Linear(BODY_FEATURES, dimension)

    def forward(self, images: Tensor) -> Tensor:
        """Map preprocessed images [B 3 96 96] to unit vectors [B dimension]."""
        return F.normalize(self.projection(self.body(images)).float(), dim=-1)


def load_image_tower(folder: Path) -> ImageTower:
    """Load the image tower of ``folder`` (``image.safetensors``)."""
    tower = ImageTower()
    load_quantised(tower, folder / IMAGE_ASSET)
    return tower.eval()


UNKNOWN = "[UNK]"


class TextTower(nn.Module):
    """A weighted mean of static token vectors and a small residual network, to unit vectors.

    A text without known words, such as the empty string, has the mean zero. The biases of the
    network map it to a fixed vector that was trained for the empty string.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        token_dimension: int = 128,
        hidden: int = 512,
        dimension: int = DIMENSION,
    ) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(
            WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token=UNKNOWN)
        )
        self.tokenizer.normalizer = BertNormalizer(lowercase=True)
        self.tokenizer.pre_tokenizer = BertPreTokenizer()
        self.unknown = list(vocabulary).index(UNKNOWN)
        self.tokens = nn.Embedding(len(vocabulary), token_dimension)
        self.log_weights = nn.Parameter(torch.zeros(len(vocabulary)))
        self.linear = nn.Linear(token_dimension, dimension)
        self.expand = nn.Linear(token_dimension, hidden)
        self.contract = nn.Linear(hidden, dimension)

    def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of the known tokens of each text."""
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [[i for i in e.ids if i != self.unknown] for e in encodings]

    def forward(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Map concatenated token ids [T] and offsets of texts [B] to vectors [B dimension]."""
        weights = self.log_weights[ids].clamp(-5, 5).exp()
        total = F.embedding_bag(
            ids, self.tokens.weight, offsets, mode="sum", per_sample_weights=weights
        )
        text = torch.searchsorted(offsets, torch.arange(len(ids)), right=True) - 1
        norm = weights.new_zeros(len(offsets), 1).index_add(0, text, weights[:, None])
        mean = total / norm.clamp(min=1e-4)
        return F.normalize(self.linear(mean) + self.contract(F.gelu(self.expand(mean))), dim=-1)

    def bag(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Embed texts given as token ids to vectors [B dimension]."""
        lengths = torch.tensor([0, *[len(i) for i in ids[:-1]]])
        flat = torch.tensor([i for text in ids for i in text], dtype=torch.long)
        return self(flat, lengths.cumsum(0))

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Embed texts one by one, so that a vector [B dimension] does not depend on the batch."""
        if not texts:
            return torch.empty(0, self.linear.out_features)
        return torch.cat([self.bag([ids]) for ids in self.token_ids(texts)])


def load_text_tower(folder: Path) -> TextTower:
    """Load the text tower of ``folder`` (``text.safetensors`` and ``vocab.txt``)."""
    vocabulary = (folder / VOCABULARY_ASSET).read_text(encoding="utf-8").splitlines()
    state = load_file(folder / TEXT_ASSET)
    tower = TextTower(
        vocabulary,
        token_dimension=state["tokens.weight"].shape[1],
        hidden=state["expand.weight"].shape[0],
        dimension=state["linear.weight"].shape[0],
    )
    load_quantised(tower, folder / TEXT_ASSET)
    return tower.eval()


def letterboxed(image: Image.Image, side: int) -> Tensor:
    """Return a square float32 [3 side side] in [-1, 1] of an image of any size.

    The longer side is scaled to ``side`` pixels and the shorter one is padded with the mean colour
    of the image's border, which preserves the aspect ratio.
    """
    pixels = np.array(_letterbox(image.convert("RGB"), side), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32).div(127.5).sub(1.0)


def _letterbox(image: Image.Image, side: int) -> Image.Image:
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.BICUBIC)
    if size == (side, side):
        return image
    pixels = np.asarray(image, dtype=np.float32)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]).mean(0)
    canvas = Image.new("RGB", (side, side), tuple(round(float(c)) for c in border))
    canvas.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    return canvas


ASSETS = files("semlens") / "assets" / "demo"


class DemoEmbedder(Embedder):
    """``semlens/demo``: trained on emoji and clip art, weak on photographs; ignores word order."""

    has_text = True
    spec = "semlens/demo"

    def __init__(self, device: str = "cpu") -> None:
        with as_file(ASSETS) as assets:
            self._text_tower = load_text_tower(assets)
            names = (IMAGE_ASSET, TEXT_ASSET, VOCABULARY_ASSET)
            digests = [file_digest(assets / name) for name in names]
        self._device = torch.device(device)
        self.fingerprint = fingerprint(self.spec, *digests)
        self.dim = DIMENSION

    @cached_property
    def _image_tower(self) -> ImageTower:
        # on first use: a search by text needs neither the weights nor timm
        with as_file(ASSETS) as assets:
            return load_image_tower(assets).to(self._device)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Scale and pad the image to the 96 x 96 input of the tower."""
        return letterboxed(image, INPUT_SIZE)

    def understands(self, text: str) -> bool:
        """Whether a word of a text, or a part of one, is in the vocabulary."""
        return bool(self._text_tower.token_ids([text])[0])

    def _images(self, batch: Tensor) -> Tensor:
        return self._image_tower(batch.to(self._device))

    def _texts(self, texts: Sequence[str]) -> Tensor:
        return self._text_tower.encode(texts)
