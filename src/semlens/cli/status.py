"""``semlens status``, ``verify`` and ``layers``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semlens.cli.output import err, out, print_json, report_errors, table

if TYPE_CHECKING:
    from semlens.store.manifest import Manifest


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
                "database": db.location,
                "fingerprint": db.fingerprint,
                **manifest.model_dump(
                    include={"model", "data", "embedder", "output", "recipe", "samples"}
                ),
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
    names = ("model", "data", "embedder", "boxes")
    sources = {name: source for name in names if (source := getattr(manifest, name)) is not None}
    lines = {name: f"{s.spec}  ({s.fingerprint[:12]})" for name, s in sources.items()} | {
        **({} if manifest.output is None else {"output": manifest.output.summary}),
        "recipe": settings,
        "images": f"{manifest.samples}, {manifest.unreadable} of them unreadable",
        "reference": describe_reference(manifest),
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

    semlens db verify r18.semlens

    semlens db verify r18.semlens --json
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


def describe_reference(manifest: Manifest) -> str:
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
    output: Annotated[
        str | None, typer.Option(help="Which tensor of the output answers, as for build.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """List the layers of a model that can be used, in execution order, and say what it answers.

    Examples:

    semlens layers torchvision/resnet18:IMAGENET1K_V1

    semlens layers timm/vit_small_patch16_224 --random-weights 0
    """
    from semlens.models.inspection import layers as layers_of
    from semlens.models.load import load_model

    with err.status("loading the model"):
        subject = load_model(model, random_weights=random_weights, output=output)
    found = layers_of(subject)
    frame = found.to_pandas()
    if as_json:
        layers = frame.to_dict("records")
        print_json({"model": model, "output": found.output, "layers": layers})
        return
    table(frame, f"{model}: {len(frame)} layers")
    out.print(found.output, highlight=False, markup=False, soft_wrap=True)
