"""Targets of outputs with places: the score of one box, and a class over a region."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from semlens.errors import RelevanceError
from semlens.models.model_output import ModelOutput
from semlens.models.output_tensor import described
from semlens.models.target import ClassRef, Names, Target, number
from semlens.recipe import fingerprint

Corners = tuple[float, float, float, float]
"""Left, top, right and bottom in pixels of the image as the model gets it."""


def _where(corners: Corners) -> str:
    return ",".join(f"{edge:g}" for edge in corners)


@dataclass(frozen=True, eq=False)
class Region(Target):
    """The mean logit of a class over a region of a segmentation [b classes h w].

    Parameters
    ----------
    target
        The class.
    mask
        bool[h w] over the image; by default the region is where the class is predicted, which is
        held.
    corners
        A rectangle in place of a mask.
    label
        Name of the class.
    """

    reads_answer: ClassVar[bool] = False

    target: ClassRef
    mask: Bool[Tensor, "h w"] | None = None
    corners: Corners | None = None
    label: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """``region:`` and the class, with the box if there is one."""
        where = "" if self.corners is None else f"@{_where(self.corners)}"
        return f"region:{self.label or self.target}{where}"

    @property
    def key(self) -> str:
        """Class, mask and box."""
        mask = None if self.mask is None else self.mask.int().tolist()
        return fingerprint("region", self.target, self.corners, mask)

    def with_names(self, names: Names) -> Region:
        """Return the target with the number of its class."""
        label = self.label or str(self.target)
        return replace(self, target=names.index(self.target), label=label)

    def _map(self, output: ModelOutput) -> Float[Tensor, "b c h w"]:
        return output.find(
            (4,), lambda name: name in ("out", "logits"), "logits by place [b classes h w]"
        )[1]

    def choice(self, output: ModelOutput) -> Bool[Tensor, "b h w"]:
        """Return the region of each image."""
        logits = self._map(output).detach()
        index = number(self.target, logits.shape[1])
        if self.mask is None and self.corners is None:
            if logits.shape[1] == 1:
                return logits[:, 0] > 0
            return logits.argmax(1) == index
        mask = self.mask if self.mask is not None else self._box_mask(output)
        resized = functional.interpolate(
            mask[None, None].to(logits), logits.shape[-2:], mode="nearest-exact"
        )
        return (resized[:, 0] > 0).expand(len(logits), -1, -1)

    def _box_mask(self, output: ModelOutput) -> Bool[Tensor, "h w"]:
        height, width = output.size if any(output.size) else self._map(output).shape[-2:]
        left, top, right, bottom = self.corners or (0, 0, 0, 0)
        rows, columns = torch.arange(height) + 0.5, torch.arange(width) + 0.5
        mask = ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))
        if not mask.any():
            raise RelevanceError(
                f"The box {_where(self.corners or (0, 0, 0, 0))} holds no pixel of the image.",
                f"Expected a box in {width} x {height} pixels, the image as the model gets it.",
                "Choose a box in the image.",
            )
        return mask

    def held_value(self, output: ModelOutput, choice: Tensor | None) -> Float[Tensor, " b"]:
        """Return the mean over the region; 0 where it is empty."""
        logits = self._map(output)
        region = self.choice(output) if choice is None else choice
        chosen = logits[:, number(self.target, logits.shape[1])]
        area = region.flatten(1).sum(1).clamp_min(1)
        return torch.where(region, chosen, 0).flatten(1).sum(1) / area


@dataclass(frozen=True)
class BoxScore(Target):
    """A class's score of one box of a detector.

    Of outputs with scores and boxes of all queries or anchors, ``[b n classes]`` and ``[b n 4]``,
    the box is that of largest generalised IoU with the given one in each image, whatever its score
    (Rezatofighi et al. 2019); which one is held. Of lists of boxes after suppression it is looked
    for among the boxes of the class, and the value is 0 without one.

    Parameters
    ----------
    target
        The class.
    corners
        The given box.
    query
        Number of a query or anchor, in place of a box.
    label
        Name of the class.
    """

    reads_answer: ClassVar[bool] = False

    target: ClassRef
    corners: Corners | None = None
    query: int | None = None
    label: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """``box:``, the class and the box."""
        where = _where(self.corners) if self.corners is not None else str(self.query)
        return f"box:{self.label or self.target}@{where}"

    @property
    def key(self) -> str:
        """Class, box and query."""
        return fingerprint("box", self.target, self.corners, self.query)

    def with_names(self, names: Names) -> BoxScore:
        """Return the target with the number of its class."""
        label = self.label or str(self.target)
        return replace(self, target=names.index(self.target), label=label)

    def choice(self, output: ModelOutput) -> Tensor | None:
        """Return the number of the box in each image [b]; None after suppression."""
        if _suppressed(output.result) is not None:
            return None
        scores = self._scores(output)
        if self.query is not None:
            if self.query >= scores.shape[1]:
                raise RelevanceError(
                    f"The model has no box {self.query}.",
                    f"Expected a query or anchor from 0 to {scores.shape[1] - 1}.",
                    "Choose one of them.",
                )
            return torch.full((len(scores),), self.query, device=scores.device)
        boxes = _corners(output)
        if boxes.shape[:2] != scores.shape[:2]:
            raise RelevanceError(
                f"The output has {boxes.shape[1]} boxes and {scores.shape[1]} scores per image.",
                "Expected a score for each box.",
                "Choose another target, or a function of the output: FILE.py:FUNCTION.",
            )
        return torch.stack([self._overlap(one).argmax() for one in boxes])

    def held_value(self, output: ModelOutput, choice: Tensor | None) -> Float[Tensor, " b"]:
        """Return the score of the class for the chosen box."""
        suppressed = _suppressed(output.result)
        if suppressed is not None:
            return torch.stack([self._of_image(one) for one in suppressed])
        scores = self._scores(output)
        chosen = self.choice(output) if choice is None else choice
        rows = torch.arange(len(scores), device=scores.device)
        return scores[rows, chosen, number(self.target, scores.shape[2])]

    def _scores(self, output: ModelOutput) -> Float[Tensor, "b n c"]:
        scores = _named(output, "logits", "scores")
        return scores[..., None] if scores.ndim == 2 else scores

    def _overlap(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, " n"]:
        given = boxes.new_tensor([self.corners or (0, 0, 0, 0)])
        from torchvision.ops import generalized_box_iou  # not on the path of a search

        return generalized_box_iou(boxes.detach(), given)[:, 0]

    def _of_image(self, found: Mapping[str, Tensor]) -> Float[Tensor, ""]:
        if self.corners is None:
            raise RelevanceError(
                "The model's boxes have no fixed numbers, since it suppresses some.",
                "Expected a box by its corners.",
                "Give box:CLASS@x0,y0,x1,y1, or a model that returns all boxes: see "
                "semlens.before_suppression.",
            )
        labels = found["labels"]
        of_class = labels.eq(int(self.target)).nonzero()[:, 0]
        if not len(of_class):
            return found["scores"].sum() * 0
        return found["scores"][of_class[self._overlap(found["boxes"][of_class]).argmax()]]


def _suppressed(result: Any) -> list[Mapping[str, Tensor]] | None:
    """Return the boxes of each image, if an output is what is left after suppression."""
    if not isinstance(result, list | tuple) or not result:
        return None
    keys = {"boxes", "scores", "labels"}
    lists = [one for one in result if isinstance(one, Mapping) and keys <= one.keys()]
    return lists if len(lists) == len(result) else None


def _named(output: ModelOutput, *names: str) -> Tensor:
    """Return the tensor of scores for all boxes."""
    is_score: Callable[[str], bool] = lambda name: name.endswith(names)  # noqa: E731
    boxes = [path for path in output.tensors if path.split(".")[-1].endswith("boxes")]
    found = {
        path: tensor
        for path, tensor in output.tensors.items()
        if is_score(path.split(".")[-1]) and path not in boxes and tensor.ndim in (2, 3)
    }
    found = {path: tensor for path, tensor in found.items() if not path.startswith("aux")}
    if len(found) != 1 or len(boxes) != 1:
        raise RelevanceError(
            f"The model's output is {described(output.result)}.",
            "Expected the scores of all queries or anchors [b n classes], named logits or scores, "
            "and their boxes [b n 4], named boxes (corners in pixels) or pred_boxes (centre, width "
            "and height as shares of the image).",
            "Wrap the model so that it returns these, see semlens.before_suppression, or choose "
            "another target: " + "FILE.py:FUNCTION.",
        )
    return next(iter(found.values()))


def _corners(output: ModelOutput) -> Float[Tensor, "b n 4"]:
    """Return the boxes of all queries as corners in pixels; their form is checked, not guessed."""
    path = next(p for p in output.tensors if p.split(".")[-1].endswith("boxes"))
    boxes = output.tensors[path].detach()
    if path.split(".")[-1] == "boxes":
        if bool((boxes[..., 2:] >= boxes[..., :2]).all()):
            return boxes
        expected = "Expected corners in pixels (x0, y0, x1, y1), each right below its first."
    else:
        if bool(((boxes >= 0) & (boxes <= 1)).all()) and any(output.size):
            height, width = output.size
            from torchvision.ops import box_convert

            return box_convert(boxes, "cxcywh", "xyxy") * boxes.new_tensor(
                [width, height, width, height]
            )
        expected = "Expected centre, width and height as shares of the image, from 0 to 1."
    raise RelevanceError(
        f"The boxes at '{path}' range from {float(boxes.min()):g} to {float(boxes.max()):g}.",
        expected,
        "Wrap the model so that it returns 'boxes' as corners in pixels.",
    )
