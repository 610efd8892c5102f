"""``semlens build``, ``status`` and ``layers``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semlens.cli.command import with_fields
from semlens.cli.output import Json, err, out, print_json, reported, table
from semlens.errors import RecipeError, nearest
from semlens.recipe import Recipe
from semlens.settings import Settings, setting

if TYPE_CHECKING:
    from semlens.api import ConceptDatabase


class BuildInputs(Settings):
    """What a build is made from, and how it runs."""

    model: Annotated[
        str | None,
        setting(
            "torchvision/NAME:WEIGHTS, timm/NAME[:WEIGHTS], transformers/ID-or-dir, "
            "FILE.py:CALLABLE or semlens/demo. WEIGHTS is a tag or a local checkpoint."
        ),
    ] = None
    data: Annotated[
        str | None, setting("Folder of images, or datasets/ID[:SPLIT] (hub id or on disk).")
    ] = None
    embedder: Annotated[
        str | None,
        setting(
            "open_clip/MODEL/PRETRAINED, transformers/ID-or-dir or semlens/demo "
            "[default: open_clip/MobileCLIP-S2/datacompdr]."
        ),
    ] = None
    layers: Annotated[
        str | list[str] | None, setting("Names, joined by commas; see 'semlens layers MODEL'.")
    ] = None
    relevance: Annotated[
        bool, setting("Also compute how much each class relies on each component.")
    ] = False
    classes: Annotated[
        Path | None,
        setting(
            "File that maps the data's class names to logits. For a database that is there, its "
            "class relevance is computed anew."
        ),
    ] = None
    targets: Annotated[Path | None, setting("CSV 'path,class' instead of class folders.")] = None
    random_weights: Annotated[int | None, setting("Seed: use the untrained architecture.")] = None
    batch_size: Annotated[int, setting("Images per forward pass.")] = 32
    workers: Annotated[int, setting("Decoding threads; -1 is one per core.")] = -1
    device: Annotated[str | None, setting("cpu, cuda, cuda:1, mps [cuda or cpu].")] = None


@reported
@with_fields(BuildInputs, Recipe)
def build(
    database: Annotated[Path, typer.Argument(help="Folder of the database, new or to go on with.")],
    config: Annotated[
        Path | None, typer.Option(help="TOML with any of these options; the command line wins.")
    ] = None,
    as_json: Json = False,
    **typed: Any,
) -> None:
    """Build a concept database from a model, images and a foundation model.

    Stopped at any point, the same command goes on where it was. With further layers it
    extends the database; with other classes or targets, samples get these and class relevance
    is computed anew.

    Examples:

    semlens build r18.semlens --model torchvision/resnet18:IMAGENET1K_V1 --data photos/
    --embedder open_clip/MobileCLIP-S2/datacompdr --layers layer3,layer4

    semlens build mine.semlens --model model.py:make --data images/ --embedder semlens/demo
    --layers features.7 --examples 20 --crop none
    """
    settings = _read_config(config)
    settings |= {name: value for name, value in typed.items() if value is not None}
    recipe = Recipe(**{k: settings.pop(k) for k in Recipe.model_fields if k in settings})
    db = _build(database, BuildInputs(**settings), recipe)
    if as_json:
        m = db.manifest
        print_json(
            {
                "database": str(db.path.resolve()),
                "components": m.rows,
                "samples": m.samples,
                "unreadable": m.unreadable,
                "layers": db.summary().to_dict("records"),
            }
        )
        return
    table(db.summary(), f"{db.path}: {db.manifest.rows} components")
    if db.manifest.unreadable:
        out.print(f"{db.manifest.unreadable} images were skipped: semlens status {db.path}")
    out.print(f"Next: semlens search {db.path} 'dog'")


def _build(database: Path, inputs: BuildInputs, recipe: Recipe) -> ConceptDatabase:
    """Load what the inputs name, and build."""
    import torch

    from semlens.api import build as build_database
    from semlens.data.class_mapping import read_targets
    from semlens.data.load import load_images
    from semlens.embedders.load import DEFAULT, load_embedder
    from semlens.models.load import load_model
    from semlens.run.plan import Execution

    model, data = _given(inputs, "model"), _given(inputs, "data")
    layers = _given(inputs, "layers")
    device = inputs.device or ("cuda" if torch.cuda.is_available() else "cpu")
    images = load_images(data)
    with err.status("loading the models"):
        subject = load_model(model, random_weights=inputs.random_weights, device=device)
        embedder = load_embedder(inputs.embedder or DEFAULT, device=device)
    names = layers.split(",") if isinstance(layers, str) else layers
    return build_database(
        database,
        subject,
        images,
        embedder,
        [name.strip() for name in names if name.strip()],
        classes=inputs.classes,
        targets=read_targets(inputs.targets, images.ids) if inputs.targets else None,
        relevance=inputs.relevance,
        execution=Execution(inputs.batch_size, inputs.workers),
        recipe=recipe,
    )


def _given(inputs: BuildInputs, name: str) -> Any:
    """Return an input that has no default."""
    if getattr(inputs, name):
        return getattr(inputs, name)
    remedy = "Add it, or --config."
    if name == "layers" and inputs.model:
        remedy = f"Run 'semlens layers {inputs.model}' and choose some."
    raise RecipeError(f"--{name} is missing.", "A build needs a model, data and layers.", remedy)


def _read_config(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        loaded = tomllib.loads(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(
            f"'{path}' cannot be read ({error}).", "Expected TOML.", "Correct the file."
        ) from error
    settings = {key.replace("-", "_"): value for key, value in loaded.items()}
    known = {**BuildInputs.model_fields, **Recipe.model_fields}
    for key in settings.keys() - known.keys():
        raise RecipeError(
            f"'{path}' has the setting '{key}'.",
            f"The nearest known ones are {nearest(key, known)}.",
            "Correct the file.",
        )
    return settings


@reported
def status(
    database: Annotated[Path, typer.Argument(help="Folder of the database.")],
    verify: Annotated[bool, typer.Option(help="Hash every file and compare.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Say what a database holds: sources, settings, layers, and images that were skipped.

    Examples:

    semlens status r18.semlens

    semlens status r18.semlens --verify --json
    """
    from semlens.api import open as open_database
    from semlens.store.build_files import damaged_files
    from semlens.store.manifest import Manifest

    # before it is opened: one whose files are damaged cannot be
    damaged = damaged_files(database, Manifest.load(database)) if verify else None
    if damaged:
        if as_json:
            print_json({"database": str(database.resolve()), "damaged": damaged})
        else:
            out.print(f"damaged files: {', '.join(damaged)}", markup=False, soft_wrap=True)
        raise typer.Exit(1)
    db = open_database(database)
    m = db.manifest
    skipped = db.samples.loc[db.samples["error"].notna(), ["path", "error"]]
    if as_json:
        print_json(
            {
                "database": str(db.path.resolve()),
                "fingerprint": db.fingerprint,
                **m.model_dump(include={"model", "data", "embedder", "recipe", "samples"}),
                "components": m.rows,
                "crops": sum(m.crops),
                "relevance": m.relevance.model_dump() if m.relevance else None,
                "layers": db.summary().to_dict("records"),
                "unreadable": skipped.to_dict("records"),
                "damaged": damaged,
            }
        )
        return
    settings = ", ".join(
        f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in m.recipe.model_dump().items()
    )
    how = f"by rules {m.relevance.rules}, for {m.relevance.targets}" if m.relevance else "none"
    sources = {name: getattr(m, name) for name in ("model", "data", "embedder")}
    lines = {name: f"{one.spec}  ({one.fingerprint[:12]})" for name, one in sources.items()} | {
        "recipe": settings,
        "images": f"{m.samples}, {m.unreadable} of them unreadable",
        "relevance": how,
    }
    for name, line in lines.items():
        out.print(f"{name:>9}  {line}", highlight=False, markup=False, soft_wrap=True)
    table(db.summary())
    if len(skipped):
        table(skipped.head(20), "skipped images")
    if damaged is not None:
        out.print("damaged files: none")


@reported
def layers(
    model: Annotated[str, typer.Argument(help="Model SPEC, as for build.")],
    random_weights: Annotated[
        int | None, typer.Option(help="Seed, for an untrained model.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the layers of a model that can be read, in the order in which they run.

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
