"""The tensors of a model's output, at which the relevance of any target may start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

LEAF = ":"
"""First letter of the names of these tensors among a trace's values; no layer has it."""


@dataclass(frozen=True)
class OutputLeaves:
    """An output taken apart into tensors, and how it is put together again.

    Parameters
    ----------
    leaves
        All tensors and other values of the output, in order.
    spec
        What holds them.
    """

    leaves: Sequence[Any]
    spec: TreeSpec

    @classmethod
    def of(cls, result: Any) -> OutputLeaves:
        """Take apart what a model returned."""
        return cls(*tree_flatten(result))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The floating-point tensors by name."""
        return {
            f"{LEAF}{number}": leaf
            for number, leaf in enumerate(self.leaves)
            if isinstance(leaf, Tensor) and leaf.is_floating_point()
        }

    def constant(self, other: OutputLeaves) -> OutputLeaves:
        """Return the output of one image, without tensors that differ from those of another pass.

        What stays does not depend on the image, such as anchors: it is known without a pass.
        """

        def kept(leaf: Any, again: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            same = leaf.shape == again.shape and bool((leaf == again).all())
            return leaf[:1] if same and leaf.ndim else None

        return OutputLeaves(list(map(kept, self.leaves, other.leaves)), self.spec)

    def rebuilt(self, values: Mapping[str, Tensor], count: int) -> Any:
        """Return an output for ``count`` images, with tensors of another pass by name.

        None stands for a tensor that is not known, such as a whole number for each place.
        """

        def value(number: int, leaf: Any) -> Any:
            known = values.get(f"{LEAF}{number}", leaf)
            is_constant = known is leaf and isinstance(leaf, Tensor) and len(leaf) == 1
            return leaf.expand(count, *leaf.shape[1:]) if is_constant else known

        return tree_unflatten([value(i, leaf) for i, leaf in enumerate(self.leaves)], self.spec)


def is_output(name: str) -> bool:
    """Whether a name among a trace's values is that of the answer or a tensor of the output."""
    return not name or name.startswith(LEAF)
