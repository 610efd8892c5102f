"""The subject model's own space: images as activations of one of its layers, without texts.

For images that no foundation model knows. It shows what the subject tells apart, not what a person
does.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from PIL import Image
from torch import Tensor

from semlens.embedders.embedder import Embedder
from semlens.models.activations import flatten, measure_layout
from semlens.models.hooks import run_layers
from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint

PREFIX = "self:"
"""Start of the SPEC of a layer of the subject model."""


class OwnSpace(Embedder):
    """Activations of a layer of the subject, averaged over space or tokens.

    They are not centred: the mean would depend on the data, and vectors would change with it.

    Parameters
    ----------
    model
        The subject; its dictionaries are left out.
    layer
        Name as in ``named_modules``.

    Raises
    ------
    LayerError
        If the layer is missing, does not run once, or has no such activations.
    """

    has_text = False

    def __init__(self, model: SubjectModel, layer: str) -> None:
        model = model.with_dictionaries(())
        self.spec = f"{PREFIX}{layer}"
        self._layer = layer
        order = model.channel_orders([layer])[layer]
        self._layout = run_layers(
            model.module,
            model.example[:1],
            [layer],
            lambda name, output: measure_layout(name, output, order),
        )[layer]
        self.dim = self._layout.components
        self.fingerprint = fingerprint("own space", model.fingerprint, layer, self._layout.form)
        # of its own, with the same weights: another thread may run the subject, and would meet
        # the hooks
        tensors = [*model.module.parameters(), *model.module.buffers()]
        module = deepcopy(model.module, {id(tensor): tensor for tensor in tensors})
        self._model = replace(model, module=module)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Preprocess an image as for the subject."""
        return self._model.prepare(image)

    def _images(self, batch: Tensor) -> Tensor:
        return run_layers(
            self._model.module,
            self._model.batch(list(batch)),
            [self._layer],
            lambda _, output: flatten(self._layout, output).mean(2),
            stop_early=True,
        )[self._layer]
