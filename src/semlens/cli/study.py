"""``semlens study``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semlens.cli.command import QuestionContext, command
from semlens.cli.output import (
    JsonOption,
    out,
    print_json,
    print_written,
    report_errors,
    saved_text,
)
from semlens.lenses.result import check_suffix
from semlens.lenses.study.results import StudyResults
from semlens.lenses.study.study import Study
from semlens.lenses.study.study import study as ask_study


@command(ask_study, written="study.html")
def study(ask: QuestionContext) -> Study:
    """Make the page of a study that compares a measure of interpretability with people.

    The page is one file that works without a server: send it to raters, who return a CSV file each.
    The key stays with you. `semlens study results` reads both.

    Examples:

    semlens study make r18.semlens --measure similarity --layer layer4 --save similarity.html

    semlens study make r18.semlens --measure clarity --tasks 12 --seed 1 --save clarity.html
    """
    page = ask.take(".html", "study.html")
    key = ask.take(".json", str(page.with_suffix(".key.json")))
    ask.also_write(page, (".html",), Study.save)
    ask.also_write(key, (".json",), Study.save)
    return ask()


@report_errors
def study_results(
    key: Annotated[Path, typer.Argument(help="Key of the study (.json).")],
    answers: Annotated[list[Path], typer.Argument(help="CSV files of the raters.")],
    save: Annotated[list[Path] | None, typer.Option(help=saved_text(StudyResults.suffixes))] = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate the answers to a study: filter the raters, and correlate ratings with the measure.

    Filters are those of the paper (G.1): raters of similarity under 55 % right answers, of clarity
    under 70 %, of polysemanticity under 72 %, and of similarity also those whose confidence rises
    with it.

    Examples:

    semlens study results similarity.key.json answers/*.csv --save similarity.png

    semlens study results clarity.key.json answers/*.csv --save clarity.csv --json
    """
    from semlens.lenses.study.results import study_results as evaluate

    for path in save or ():
        check_suffix(path, StudyResults.suffixes)
    result = evaluate(key, answers)
    if as_json:
        print_json(result.to_json())
    else:
        out.print(result)
    for path in save or ():
        result.save(path)
        print_written(path)
