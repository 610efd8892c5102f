"""``semlens build``."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer

from semlens.cli.output import err, out, print_json, reported, table
from semlens.cli.progress import progress_bars
from semlens.errors import RecipeError, nearest

_KEYS = (
    "model", "data", "embedder", "layers", "examples", "readout", "signs", "crop", "crop_blur",
    "crop_threshold", "aggregate", "thumbnails", "classes", "targets", "random_weights",
    "batch_size", "workers", "device", "rules", "relevance",
)  # fmt: skip
_RECIPE = (
    "examples", "readout", "signs", "crop", "crop_blur", "crop_threshold", "aggregate",
    "thumbnails", "rules",
)  # fmt: skip


@reported
def build(
    database: Annotated[Path, typer.Argument(help="Folder of the database, new or to go on with.")],
    model: Annotated[
        str | None,
        typer.Option(
            help="torchvision/NAME:WEIGHTS, timm/NAME[:WEIGHTS], transformers/ID-or-dir, "
            "FILE.py:CALLABLE or semlens/demo. WEIGHTS is a tag or a local checkpoint."
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Folder of images, or datasets/ID[:SPLIT] (hub id or on disk)."),
    ] = None,
    embedder: Annotated[
        str | None,
        typer.Option(
            help="open_clip/MODEL/PRETRAINED, transformers/ID-or-dir or semlens/demo "
            "[default: open_clip/MobileCLIP-S2/datacompdr]."
        ),
    ] = None,
    layers: Annotated[
        str | None, typer.Option(help="Names, joined by commas; see 'semlens layers MODEL'.")
    ] = None,
    examples: Annotated[int | None, typer.Option(help="Examples per component [30].")] = None,
    readout: Annotated[str | None, typer.Option(help="mean, max or cls [mean].")] = None,
    signs: Annotated[str | None, typer.Option(help="auto, positive or both [auto].")] = None,
    crop: Annotated[str | None, typer.Option(help="auto, none, activation or crp [auto].")] = None,
    crop_blur: Annotated[
        float | None, typer.Option(help="Blur kernel as a share of the input [0.228].")
    ] = None,
    crop_threshold: Annotated[
        float | None,
        typer.Option(
            help="Values above this share of a heatmap's maximum are boxed "
            "[0.01 for crp, 0.5 for activation]."
        ),
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(
            help="Relevance rules: auto, a preset (docs/relevance.md) or gradient [auto]."
        ),
    ] = None,
    relevance: Annotated[
        bool | None,
        typer.Option(
            "--relevance/--no-relevance", help="Also compute how much each class relies on each."
        ),
    ] = None,
    aggregate: Annotated[str | None, typer.Option(help="mean, median or weighted [mean].")] = None,
    thumbnails: Annotated[
        bool | None, typer.Option("--thumbnails/--no-thumbnails", help="Keep small pictures.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(help="File that maps the data's class names to logits.")
    ] = None,
    targets: Annotated[
        Path | None, typer.Option(help="CSV 'path,class' instead of class folders.")
    ] = None,
    random_weights: Annotated[
        int | None, typer.Option(help="Seed: use the untrained architecture.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images per forward pass [32].")] = None,
    workers: Annotated[int | None, typer.Option(help="Decoding threads [one per core].")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1, mps [cuda or cpu].")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML with any of these options; the command line wins.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Build a concept database from a model, images and a foundation model.

    Stopped at any point, the same command goes on where it was. With further layers it
    extends the database.

    Examples:

    semlens build r18.semlens --model torchvision/resnet18:IMAGENET1K_V1 --data photos/
    --embedder open_clip/MobileCLIP-S2/datacompdr --layers layer3,layer4

    semlens build mine.semlens --model model.py:make --data images/ --embedder semlens/demo
    --layers features.7 --examples 20 --crop none
    """
    given = {key: value for key, value in locals().items() if key in _KEYS and value is not None}
    settings = {**_read_config(config), **given}
    for key in ("model", "data", "layers"):
        if not settings.get(key):
            remedy = "Add it, or --config."
            if key == "layers" and settings.get("model"):
                remedy = f"Run 'semlens layers {settings['model']}' and choose some."
            raise RecipeError(
                f"--{key} is missing.", "A build needs a model, data and layers.", remedy
            )
    db = _build(database, settings)
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


def _build(database: Path, settings: dict[str, Any]) -> Any:
    """Load what the settings name and build, with bars."""
    import torch

    from semlens.api import build as build_database
    from semlens.data.load import load_images
    from semlens.data.targets import map_targets, read_classes, read_targets
    from semlens.embedders.load import DEFAULT, load_embedder
    from semlens.models.load import load_model
    from semlens.run.plan import Execution

    names = settings.get("layers") or ()
    layers = names.split(",") if isinstance(names, str) else list(names)
    device = settings.get("device") or ("cuda" if torch.cuda.is_available() else "cpu")
    images = load_images(settings["data"])
    with err.status("loading the models"):
        model = load_model(
            settings["model"], random_weights=settings.get("random_weights"), device=device
        )
        embedder = load_embedder(settings.get("embedder") or DEFAULT, device=device)
    if settings.get("targets"):
        images.targets = read_targets(Path(settings["targets"]), images.ids)
    mapping = read_classes(Path(settings["classes"])) if settings.get("classes") else None
    notice = map_targets(images.targets, len(images), model.classes, model.synsets, mapping).notice
    if notice:
        err.print(f"Notice: {notice}", markup=False, soft_wrap=True)
    with progress_bars() as progress:
        return build_database(
            database,
            model,
            images,
            embedder,
            [name.strip() for name in layers if name.strip()],
            classes=settings.get("classes"),
            relevance=bool(settings.get("relevance")),
            execution=Execution(settings.get("batch_size", 32), settings.get("workers", -1)),
            progress=progress,
            **{key: settings[key] for key in _RECIPE if key in settings},
        )


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
    for key in settings:
        if key not in _KEYS:
            raise RecipeError(
                f"'{path}' has the setting '{key}'.",
                f"The nearest known ones are {nearest(key, _KEYS)}.",
                "Correct the file.",
            )
    return settings
