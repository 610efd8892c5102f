"""Small models whose output is not one row of logits: a detector, a segmenter, and others."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = ["cat", "dog", "bus", "road"]


class Backbone(nn.Module):
    """Two strided convolutions [b 12 h/4 w/4], without biases if asked."""

    def __init__(self, *, bias: bool = True, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=bias), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=bias), nn.ReLU())

    def features(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class Segmenter(Backbone):
    """A map of logits per class, with an auxiliary one, as torchvision's segmenters have it."""

    def __init__(self, *, bias: bool = True) -> None:
        super().__init__(bias=bias)
        self.head = nn.Conv2d(12, 4, 1, bias=bias)
        self.auxiliary = nn.Conv2d(12, 4, 1, bias=bias)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.features(x)
        large = functional.interpolate(self.head(found), x.shape[-2:], mode="bilinear")
        return {"out": large, "aux": self.auxiliary(found)}


class Detector(Backbone):
    """Logits and corners of one anchor per position; sizes are exponentials, without a rule."""

    def __init__(self, *, bias: bool = True, normalised: bool = False) -> None:
        super().__init__(bias=bias)
        self.score = nn.Conv2d(12, 4, 1, bias=bias)
        self.size = nn.Conv2d(12, 2, 1, bias=bias)
        self.normalised = normalised

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.features(x)
        logits = self.score(found).flatten(2).transpose(1, 2)
        size = self.size(found).flatten(2).transpose(1, 2).exp() * 4
        rows, columns = (4.0 * torch.arange(n) + 2 for n in found.shape[2:])
        centre = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).reshape(1, -1, 2)
        if self.normalised:
            shape = torch.tensor([x.shape[3], x.shape[2]])
            shares = torch.cat([(centre / shape).expand_as(size), size / shape / 8], -1)
            return {"pred_logits": logits, "pred_boxes": shares}
        return {"logits": logits, "boxes": torch.cat([centre - size, centre + size], -1)}


class Classifier(Backbone):
    """One row of values per image."""

    def __init__(self, *, bias: bool = True, width: int = 4) -> None:
        super().__init__(bias=bias)
        self.head = nn.Linear(12, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


class Suppressed(Detector):
    """The same detector after a choice of boxes: a list, one entry per image."""

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:  # type: ignore[override]
        output = super().forward(x)
        scores, labels = output["logits"].sigmoid().max(-1)
        kept = [one.topk(5).indices for one in scores]
        return [
            {"boxes": b[k], "scores": s[k], "labels": n[k]}
            for b, s, n, k in zip(output["boxes"], scores, labels, kept, strict=True)
        ]
