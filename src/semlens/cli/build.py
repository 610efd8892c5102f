"""``semlens build``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semlens.cli.build_inputs import BuildInputs, load_plan, read_config
from semlens.cli.command import with_fields
from semlens.cli.merge import build_one_part, print_database
from semlens.cli.output import JsonOption, report_errors
from semlens.recipe import Recipe
from semlens.regular_files import user_path

if TYPE_CHECKING:
    pass


@report_errors
@with_fields(BuildInputs, Recipe)
def build(
    database: Annotated[Path, typer.Argument(help="Folder of the database, new or existing.")],
    config: Annotated[
        Path | None,
        typer.Option(
            help="TOML file with any of these options, or a bundled recipe: resnet50, vit-base, "
            "dinov2-base, clip-vit-base. The command line takes precedence."
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
    settings = read_config(config)
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
    with progress_bars(plan.stages):
        build_database(user_path(database), plan)
    print_database(open_database(database), as_json)
