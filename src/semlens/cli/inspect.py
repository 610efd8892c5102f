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

    db = open_database(database)
    m = db.manifest
    skipped = db.samples.loc[db.samples["error"].notna(), ["path", "error"]]
    damaged = db.verify() if verify else None
    if as_json:
        print_json(
            {
                "database": str(db.path.resolve()),
                "fingerprint": db.fingerprint,
                "model": m.model.model_dump(),
                "data": m.data.model_dump(),
                "embedder": m.embedder.model_dump(),
                "recipe": m.recipe.model_dump(),
                "samples": m.samples,
                "components": m.rows,
                "crops": sum(m.crops),
                "relevance": m.relevance.model_dump() if m.relevance else None,
                "layers": db.summary().to_dict("records"),
                "unreadable": skipped.to_dict("records"),
                "damaged": damaged,
            }
        )
    else:
        for name in ("model", "data", "embedder"):
            source = getattr(m, name)
            line = f"{name:>9}  {source.spec}  ({source.fingerprint[:12]})"
            out.print(line, highlight=False, markup=False, soft_wrap=True)
        settings = ", ".join(
            f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}"
            for k, v in m.recipe.model_dump().items()
        )
        out.print(f"   recipe  {settings}", highlight=False, markup=False, soft_wrap=True)
        out.print(f"   images  {m.samples}, {m.unreadable} of them unreadable", highlight=False)
        how = f"by rules {m.relevance.rules}, for {m.relevance.targets}" if m.relevance else "none"
        out.print(f"relevance  {how}", highlight=False)
        table(db.summary())
        if len(skipped):
            table(skipped.head(20), "skipped images")
        if damaged is not None:
            out.print(f"damaged files: {', '.join(damaged) or 'none'}", markup=False)
    if damaged:
        raise typer.Exit(1)


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
