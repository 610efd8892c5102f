"""The inputs of a build, and the plan that is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict

from semlens.cli.output import err
from semlens.documents import parse_toml, read_toml
from semlens.errors import RecipeError, nearest
from semlens.hub.pull import recipe_names, recipe_text
from semlens.recipe import Recipe
from semlens.regular_files import is_file
from semlens.settings import Settings, setting

if TYPE_CHECKING:
    from semlens.data.images import Images
    from semlens.run.plan import Plan


class BuildInputs(Settings):
    """Inputs of a build, and how it runs."""

    model_config = ConfigDict(strict=True)  # True is no number

    model: Annotated[
        str | None,
        setting(
            "Subject model: torchvision/NAME:WEIGHTS, timm/NAME[:WEIGHTS], "
            "transformers/ID-or-dir, onnx/FILE.onnx, FILE.py:CALLABLE or semlens/demo. WEIGHTS is "
            "a tag or a local checkpoint."
        ),
    ] = None
    data: Annotated[
        list[str] | None,
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
        setting(
            "Folder of images or URL of one, datasets/ID[:SPLIT] (Hugging Face id or saved "
            "folder), wds:PATTERN of tar archives, parquet:PATTERN, or signals:, arrays: or "
            "volumes:FOLDER[@RENDERING] for arrays. If it is given several times, the images of "
            "all are taken, one after another."
        ),
    ] = None
    embedder: Annotated[
        str | None,
        setting(
            "Foundation model: open_clip/MODEL/PRETRAINED, transformers/ID-or-dir, semlens/photo, "
            "semlens/demo, self:LAYER, a layer of the subject itself, without texts, or "
            "vectors/FILE.parquet[:EMBEDDER], vectors that you have, with what made them "
            "[default: open_clip/MobileCLIP-S2/datacompdr]."
        ),
    ] = None
    layers: Annotated[
        str | list[str] | None,
        setting("Layer names, separated by commas; see 'semlens layers MODEL'."),
    ] = None
    components: Annotated[
        str | list[str],
        setting(
            "What is read of each layer: channels (its own components), fitted directions "
            "(nmf:N, semi-nmf:N, pca:N, kmeans:N, sae:N), attention heads (heads), or directions "
            "of a file (sae:FILE, cav:FILE); several separated by commas."
        ),
    ] = "channels"
    boxes: Annotated[
        Path | None,
        setting(
            "File of boxes for --crop boxes: CSV or Parquet with the columns image, x0, y0, x1 "
            "and y1, in pixels of the upright originals.",
            strict=False,  # a text in a file of settings
        ),
    ] = None
    relevance: Annotated[
        bool, setting("Also compute how much each class relies on each component.")
    ] = False
    extendable: Annotated[
        bool, setting("Keep what 'semlens db extend' needs to add images later.")
    ] = False
    classes: Annotated[
        Path | None,
        setting(
            "File that maps the class names of the data to logits. In an existing database only "
            "class relevance is recomputed.",
            strict=False,  # a text in a file of settings
        ),
    ] = None
    targets: Annotated[
        Path | None,
        setting("CSV file with lines 'path,class', instead of class folders.", strict=False),
    ] = None
    output: Annotated[
        str | None,
        setting(
            "Which tensor of the model's output answers: its key or index, such as logits or 1 "
            "[by name, or by the number of class names]."
        ),
    ] = None
    task: Annotated[
        Literal["auto", "multiclass", "binary", "multilabel", "regression", "embedding"],
        setting("What the model answers with; auto: measured, see 'semlens layers MODEL'."),
    ] = "auto"
    random_weights: Annotated[
        int | None, setting("Use the untrained architecture, initialized with this seed.")
    ] = None
    batch_size: Annotated[int, setting("Images per forward pass.")] = 32
    workers: Annotated[int, setting("Threads that decode images; -1 means one per core.")] = -1
    device: Annotated[
        str | None, setting("cpu, cuda, cuda:1 or mps [cuda if available, else cpu].")
    ] = None
    executor: Annotated[
        str,
        setting(
            "What computes: here, processes[:N] of this machine (one per GPU, or N that share the "
            "CPU), ray, or ray://HOST:PORT. It does not change the result."
        ),
    ] = "here"
    compute_threads: Annotated[
        int | None,
        setting(
            "CPU threads per process for the models [all cores, divided among processes; 1 with "
            "ray]. Byte-identical results need equal numbers.",
            ge=1,
        ),
    ] = None
    shard: Annotated[
        str | None,
        setting("Compute only part I of N, written I/N; see 'semlens merge'."),
    ] = None


def load_plan(inputs: BuildInputs, recipe: Recipe, *, run_files: bool = True) -> Plan:
    """Load the model, images and embedder of a build."""
    import torch

    from semlens.api import make_plan
    from semlens.data.class_mapping import read_targets
    from semlens.embedders.load import DEFAULT_EMBEDDER, load_embedder, needs_model
    from semlens.models.load import load_model
    from semlens.run.plan import Execution, parse_executor

    executor = parse_executor(inputs.executor, inputs.compute_threads)
    model, data, layers = (_required(inputs, name) for name in ("model", "data", "layers"))
    device = inputs.device or ("cuda" if torch.cuda.is_available() else "cpu")
    images = load_sources(data)
    with err.status("loading the models"):
        subject = load_model(
            model,
            random_weights=inputs.random_weights,
            device=device,
            run_files=run_files,
            output=inputs.output,
            task=inputs.task,
        )
        embedder = inputs.embedder or DEFAULT_EMBEDDER
        if not needs_model(embedder):
            embedder = load_embedder(embedder, device=device)
    names = layers.split(",") if isinstance(layers, str) else layers
    return make_plan(
        subject,
        images,
        embedder,
        [name.strip() for name in names if name.strip()],
        components=inputs.components,
        classes=inputs.classes,
        targets=read_targets(inputs.targets, images.ids) if inputs.targets else None,
        boxes=inputs.boxes,
        relevance=inputs.relevance,
        extendable=inputs.extendable,
        execution=Execution(inputs.batch_size, inputs.workers, executor=executor),
        recipe=recipe,
    )


def load_sources(specs: Sequence[str]) -> Images:
    """Load the images of one or several SPECs, one after another."""
    from semlens.data.images import JoinedImages
    from semlens.data.load import load_images

    sources = [load_images(spec) for spec in specs]
    return sources[0] if len(sources) == 1 else JoinedImages(sources)


def _required(inputs: BuildInputs, name: str) -> Any:
    """Return an input that has no default."""
    if getattr(inputs, name):
        return getattr(inputs, name)
    remedy = "Add the option, or name a file that has it with --config."
    if name == "layers" and inputs.model:
        remedy = f"Run 'semlens layers {inputs.model}' and choose from the list."
    raise RecipeError(f"--{name} is missing.", "A build needs a model, data and layers.", remedy)


def read_config(path: Path | None) -> dict[str, Any]:
    """Return the settings of a TOML file or of a bundled recipe; none without a file."""
    if path is None:
        return {}
    try:
        recipe = None if is_file(path) else recipe_text(str(path))
        loaded = read_toml(path) if recipe is None else parse_toml(recipe)
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"Cannot read '{path}' ({error}).",
            f"Expected a TOML file, or a bundled recipe: {', '.join(recipe_names())}.",
            "Fix the file, or check its name.",
        ) from error
    settings = {key.replace("-", "_"): value for key, value in loaded.items()}
    fields = {**BuildInputs.model_fields, **Recipe.model_fields}
    for key in settings.keys() - fields.keys():
        raise RecipeError(
            f"Unknown setting '{key}' in '{path}'.",
            f"The nearest known settings are {nearest(key, fields)}.",
            "Fix the file.",
        )
    return settings
