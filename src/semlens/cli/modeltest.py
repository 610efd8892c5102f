"""``semlens test``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semlens.cli.options import Data, Db, Device, Json, Save, Subject, checked, opened
from semlens.cli.output import answer, err, reported
from semlens.cli.progress import progress_bars

if TYPE_CHECKING:
    from semlens.api import ConceptDatabase
    from semlens.models.subject import SubjectModel


@reported
def test(
    database: Db,
    target: Annotated[str, typer.Option(help="Class, by name or number.")],
    spurious: Annotated[
        str | None,
        typer.Option(help="Images of spurious features only; each sub-folder is a set."),
    ] = None,
    artefact: Annotated[
        list[str] | None,
        typer.Option(
            help="Insert this into images of other classes: hue, text:WORDS, patch:COLOUR, "
            "stripes, paste:FOLDER. May be given again."
        ),
    ] = None,
    real: Annotated[
        str | None,
        typer.Option(help="Images of the class [the database's samples of it]."),
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="Images of the class, and of other classes, at most.")
    ] = 500,
    seed: Annotated[
        int, typer.Option(min=0, help="Of the images drawn, and of artefacts' places.")
    ] = 0,
    weights: Annotated[
        Path | None, typer.Option(help="Test these weights of the model, such as corrected ones.")
    ] = None,
    model: Subject = None,
    data: Data = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 32,
    device: Device = "cpu",
    save: Save = None,
    as_json: Json = False,
) -> None:
    """Test whether images that show spurious features only pass for a class.

    AUROC of the class's logit on real images against those: 1 is safe, 0.5 is unsafe. With
    --artefact the same images without it are tested too.

    Examples:

    semlens test r18.semlens --target ox --spurious generated/

    semlens test r18.semlens --target ox --artefact "text:© stock" --artefact hue --save test.png
    """
    from semlens.analysis.audit.model_test import model_test
    from semlens.analysis.target import class_samples, find_class
    from semlens.data.artefact import load_artefact
    from semlens.data.load import load_images

    paths = checked(save)
    artefacts = [load_artefact(text) for text in artefact or ()]
    db = opened(database)
    chosen = find_class(db, target)
    if real is None:
        class_samples(db, chosen)  # a class without any is known before the model is loaded
    sets = None if spurious is None else load_images(spurious)
    with err.status("loading the model and checking the images"):
        subject = _subject(db, model, weights, device)
        images = db.load_images(data) if real is None or artefacts else None
    with progress_bars() as progress:
        found = model_test(
            db,
            subject,
            chosen,
            images=images,
            spurious=sets,
            artefacts=artefacts,
            real=None if real is None else load_images(real),
            count=count,
            seed=seed,
            batch_size=batch_size,
            progress=progress,
        )
    answer(found, as_json, paths)


def _subject(
    db: ConceptDatabase, spec: str | None, weights: Path | None, device: str
) -> SubjectModel:
    """Load the database's model and verify it, or load other weights of it."""
    from semlens.models.load import load_model

    if weights is None:
        return db.load_model(spec, device)
    known = db.manifest.model.spec
    return load_model(spec or known, weights=weights, device=device, run_files=spec is not None)
