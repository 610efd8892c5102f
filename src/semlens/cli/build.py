"""``semlens build``, ``status`` and ``layers``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from pydantic import BeforeValidator, ConfigDict

from semlens.cli.command import with_fields
from semlens.cli.merge import build_one_part
from semlens.cli.output import JsonOption, err, out, print_json, report_errors, table
from semlens.errors import RecipeError, nearest
from semlens.recipe import Recipe
from semlens.regular_files import read_text, user_path
from semlens.settings import Settings, setting

if TYPE_CHECKING:
    from semlens.api import ConceptDatabase
    from semlens.run.plan import Plan
    from semlens.store.manifest import Manifest


class BuildInputs(Settings):
    """Inputs of a build, and how it runs."""

    model_config = ConfigDict(strict=True)  # True is no number

    model: Annotated[
        str | None,
        setting(
            "Subject model: torchvision/NAME:WEIGHTS, timm/NAME[:WEIGHTS], "
            "transformers/ID-or-dir, FILE.py:CALLABLE or semlens/demo. WEIGHTS is a tag or a "
            "local checkpoint."
        ),
    ] = None
    data: Annotated[
        list[str] | None,
        BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
        setting(
            "Folder of images or URL of one, datasets/ID[:SPLIT] (Hugging Face id or saved "
            "folder), wds:PATTERN of tar archives, or parquet:PATTERN. If it is given several "
            "times, the images of all are taken, one after another."
        ),
    ] = None
    embedder: Annotated[
        str | None,
        setting(
            "Foundation model: open_clip/MODEL/PRETRAINED, transformers/ID-or-dir, semlens/photo "
            "or semlens/demo [default: open_clip/MobileCLIP-S2/datacompdr]."
        ),
    ] = None
    layers: Annotated[
        str | list[str] | None,
        setting("Layer names, separated by commas; see 'semlens layers MODEL'."),
    ] = None
    relevance: Annotated[
        bool, setting("Also compute how much each class relies on each component.")
    ] = False
    extendable: Annotated[
        bool, setting("Keep what 'semlens extend' needs to add images later.")
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


@report_errors
@with_fields(BuildInputs, Recipe)
def build(
    database: Annotated[Path, typer.Argument(help="Folder of the database, new or existing.")],
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with any of these options; the command line takes precedence."
        ),
    ] = None,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Build a concept database from a model, images and a foundation model.

    If a build is interrupted, run the same command again to resume it. With additional layers it
    adds them to the database. With other classes or targets it updates the samples' classes and
    recomputes class relevance.

    Examples:

    semlens build r18.semlens --model torchvision/resnet18:IMAGENET1K_V1 --data photos/
    --embedder open_clip/MobileCLIP-S2/datacompdr --layers layer3,layer4

    semlens build mine.semlens --model model.py:make --data images/ --embedder semlens/demo
    --layers features.7 --examples 20 --crop none
    """
    settings = _read_config(config)
    settings |= {name: value for name, value in options.items() if value is not None}
    recipe = Recipe(**{k: settings.pop(k) for k in Recipe.model_fields if k in settings})
    inputs = BuildInputs(**settings)
    if inputs.shard is not None:
        build_one_part(database, inputs, recipe, as_json)
        return
    from semlens.api import open as open_database
    from semlens.progress import progress_bars
    from semlens.run.build_database import build_database

    plan = load_plan(inputs, recipe)
    with progress_bars():
        build_database(user_path(database), plan)
    print_database(open_database(database), as_json)


def print_database(db: ConceptDatabase, as_json: bool) -> None:
    """Print what a build made."""
    if as_json:
        manifest = db.manifest
        print_json(
            {
                "database": str(db.path.resolve()),
                "components": manifest.rows,
                "samples": manifest.samples,
                "unreadable": manifest.unreadable,
                "reference": len(manifest.reference_rows),
                "layers": db.summary().to_dict("records"),
            }
        )
        return
    table(db.summary(), f"{db.path}: {db.manifest.rows} components")
    out.print(f"Reference: {_describe_reference(db.manifest)}.")
    if db.manifest.unreadable:
        out.print(f"{db.manifest.unreadable} images skipped. See: semlens status {db.path}")
    out.print(f"Next: semlens search {db.path} 'dog'")


def load_plan(inputs: BuildInputs, recipe: Recipe, *, run_files: bool = True) -> Plan:
    """Load the model, images and embedder of a build."""
    import torch

    from semlens.api import make_plan
    from semlens.data.class_mapping import read_targets
    from semlens.data.joined_images import JoinedImages
    from semlens.data.load import load_images
    from semlens.embedders.load import DEFAULT_EMBEDDER, load_embedder
    from semlens.models.load import load_model
    from semlens.run.executors.parse import parse_executor
    from semlens.run.plan import Execution

    executor = parse_executor(inputs.executor, inputs.compute_threads)
    model, data, layers = (_required(inputs, name) for name in ("model", "data", "layers"))
    device = inputs.device or ("cuda" if torch.cuda.is_available() else "cpu")
    sources = [load_images(source) for source in data]
    images = sources[0] if len(sources) == 1 else JoinedImages(sources)
    with err.status("loading the models"):
        subject = load_model(
            model, random_weights=inputs.random_weights, device=device, run_files=run_files
        )
        embedder = load_embedder(inputs.embedder or DEFAULT_EMBEDDER, device=device)
    names = layers.split(",") if isinstance(layers, str) else layers
    return make_plan(
        subject,
        images,
        embedder,
        [name.strip() for name in names if name.strip()],
        classes=inputs.classes,
        targets=read_targets(inputs.targets, images.ids) if inputs.targets else None,
        relevance=inputs.relevance,
        extendable=inputs.extendable,
        execution=Execution(inputs.batch_size, inputs.workers, executor=executor),
        recipe=recipe,
    )


def _required(inputs: BuildInputs, name: str) -> Any:
    """Return an input that has no default."""
    if getattr(inputs, name):
        return getattr(inputs, name)
    remedy = "Add the option, or name a file that has it with --config."
    if name == "layers" and inputs.model:
        remedy = f"Run 'semlens layers {inputs.model}' and choose from the list."
    raise RecipeError(f"--{name} is missing.", "A build needs a model, data and layers.", remedy)


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        loaded = tomllib.loads(read_text(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(
            f"Cannot read '{path}' ({error}).", "Expected TOML.", "Fix the file."
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


@report_errors
def status(
    database: Annotated[Path, typer.Argument(help="Folder of the database.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a database contains: sources, settings, layers and skipped images.

    Examples:

    semlens status r18.semlens

    semlens status r18.semlens --json
    """
    from semlens.api import open as open_database

    db = open_database(database)
    manifest = db.manifest
    skipped = db.samples.loc[db.samples["error"].notna(), ["path", "error"]]
    if as_json:
        print_json(
            {
                "database": str(db.path.resolve()),
                "fingerprint": db.fingerprint,
                **manifest.model_dump(include={"model", "data", "embedder", "recipe", "samples"}),
                "components": manifest.rows,
                "crops": sum(manifest.crops),
                "reference": len(manifest.reference_rows),
                "relevance": manifest.relevance.model_dump() if manifest.relevance else None,
                "extendable": manifest.extendable.model_dump() if manifest.extendable else None,
                "layers": db.summary().to_dict("records"),
                "unreadable": skipped.to_dict("records"),
            }
        )
        return
    settings = ", ".join(
        f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in manifest.recipe.model_dump().items()
    )
    relevance = manifest.relevance
    sources = {name: getattr(manifest, name) for name in ("model", "data", "embedder")}
    lines = {name: f"{s.spec}  ({s.fingerprint[:12]})" for name, s in sources.items()} | {
        "recipe": settings,
        "images": f"{manifest.samples}, {manifest.unreadable} of them unreadable",
        "reference": _describe_reference(manifest),
        "extended": _describe_state(manifest),
        "relevance": f"by rules {relevance.rules}, for {relevance.targets}"
        if relevance
        else "none",
    }
    for name, line in lines.items():
        out.print(f"{name:>9}  {line}", highlight=False, markup=False, soft_wrap=True)
    table(db.summary())
    if len(skipped):
        table(skipped.head(20), "skipped images")


@report_errors
def verify(
    database: Annotated[Path, typer.Argument(help="Folder of the database.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Check every file of a database, and say what is damaged and what to do.

    Each file must have its hash, and the content that the manifest describes. Neither the model
    nor the images are needed, and nothing is changed. The exit code is 1 if a problem is found.

    Examples:

    semlens verify r18.semlens

    semlens verify r18.semlens --json
    """
    from semlens.store.verify import verify as verify_database

    found = verify_database(database)
    if as_json:
        print_json(found.to_json())
    else:
        for problem in found.problems:
            for line in (f"{problem.file}: {problem.problem}.", f"  {problem.remedy}"):
                out.print(line, markup=False, highlight=False, soft_wrap=True)
        count = len(found.problems)
        result = "no problem" if found.sound else f"{count} problem{'s' if count > 1 else ''}"
        size = f"{found.files} files, {found.size / 1e6:.1f} MB"
        out.print(f"{result} in '{found.database}' ({size})", markup=False, soft_wrap=True)
    if not found.sound:
        raise typer.Exit(1)


def _describe_reference(manifest: Manifest) -> str:
    """Return the number of reference images, and if it had to be reduced, the requested one."""
    count = len(manifest.reference_rows)
    requested = min(manifest.recipe.reference, manifest.samples - manifest.unreadable)
    reduced = f" ({requested} were requested)" if count < requested else ""
    return f"{count} random images{reduced}" if requested else "none"


def _describe_state(manifest: Manifest) -> str:
    kept = manifest.extendable
    if kept is None:
        return "cannot be (built without --extendable)"
    return f"can be, with batches of {kept.batch_size} on a device of type {kept.device}"


@report_errors
def layers(
    model: Annotated[str, typer.Argument(help="Model, as for --model of build.")],
    random_weights: Annotated[
        int | None, typer.Option(help="Use the untrained architecture, initialized with this seed.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the layers of a model that can be used, in execution order.

    Examples:

    semlens layers torchvision/resnet18:IMAGENET1K_V1

    semlens layers timm/vit_small_patch16_224 --random-weights 0
    """
    from semlens.models.list_layers import layers as layers_of
    from semlens.models.load import load_model

    with err.status("loading the model"):
        subject = load_model(model, random_weights=random_weights)
    frame = layers_of(subject).to_pandas()
    if as_json:
        print_json({"model": model, "layers": frame.to_dict("records")})
        return
    table(frame, f"{model}: {len(frame)} layers")
