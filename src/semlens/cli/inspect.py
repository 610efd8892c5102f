"""``semlens status`` and ``semlens layers``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.output import err, out, print_json, reported, table


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
    from semlens.models.load import load_model
    from semlens.models.survey import layers as layers_of

    with err.status("loading the model"):
        subject = load_model(model, random_weights=random_weights)
    frame = layers_of(subject).to_pandas()
    if as_json:
        print_json({"model": model, "layers": frame.to_dict("records")})
        return
    table(frame, f"{model}: {len(frame)} layers")
