"""``semlens demo``."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pandas as pd
import typer

from semlens.cli.output import err, out, print_json, report_errors, table
from semlens.errors import ServeError

if TYPE_CHECKING:
    from semlens.concept_database import ConceptDatabase
    from semlens.demo.walkthrough import Accuracy, Planted
    from semlens.lenses.audit.audit_result import Audit
    from semlens.lenses.class_relevance import RelevantComponents
    from semlens.lenses.search.search import Hits
    from semlens.lenses.swap.swap_result import Swap


@report_errors
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("semlens-demo"),
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Open the web application at the end.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find a planted flaw in a bundled model: search, label, audit, test, prune. Works offline.

    Examples:

    semlens demo

    semlens demo --json --no-serve --out /tmp/semlens-demo
    """
    start = time.perf_counter()
    with err.status("loading the bundled model and images"):
        from semlens.demo import walkthrough
        from semlens.demo.bundled_images import DemoWorld

        world = DemoWorld()
    out.quiet = as_json
    out.print(
        f"\nA small CNN was trained on {len(world.classes)} classes of pictures. "
        f"{100 * world.marked_share:.0f} % of the '{world.target}' images had a mark: "
        f"{world.artefact}.\nCan this be discovered from the model alone?\n"
    )
    db = walkthrough.build_demo(folder, world)
    table(db.scores().per_layer(), "\n1. How interpretable are its layers?")

    hits, without = walkthrough.search_mark(db)
    with err.status("measuring activations with and without the mark"):
        model = db.model
        planted = walkthrough.find_planted(model, world, db)
    rank = planted.rank(hits)
    _print_hits(hits, planted, without, f"2. semlens search {db.path} '{hits.query}'")

    labels = db.label()
    labels.save_to_database("paper-vocabulary")  # shown beside every component in the browser
    relevant = db.class_relevance(world.target, top=6, concepts=labels)
    _print_relevant(relevant, planted, f"\n3. What drives '{world.target}'?")

    with err.status("auditing"):
        audit = db.audit(world.target, ["demo-world", "artefacts"])
        verdicts = walkthrough.keep_answers(db)
    _print_audit(audit, f"4. Is that valid? semlens audit {db.path} --target {world.target}")
    out.print(f"All classes: {verdicts.sentence()}", highlight=False)

    borders = db.swap(part="border", size=walkthrough.BORDER, count=walkthrough.BORDER_IMAGES)
    _print_borders(
        borders, world.target, f"5. And without words? semlens swap {db.path} --part border"
    )

    with err.status("testing with the mark on and off, and pruning"):
        accuracy = walkthrough.measure(model, world, planted)
    _print_accuracy(accuracy, len(planted.components), world.target)
    out.print("\n[italic]7. The corrected model, to compare with: its own database[/]")
    corrected = walkthrough.build_corrected(folder, db, planted)

    page = folder / "index.html"
    walkthrough.write_page(page, db, world, hits, planted, relevant, accuracy)
    seconds = time.perf_counter() - start
    out.print(
        f"\nDone in {seconds:.0f} s. See the report: {page}\n"
        f"Try:  semlens serve {db.path} {corrected.path}\n"
        f"      semlens search {db.path} 'red fruit' --save hits.png\n"
        f"      semlens map {db.path} --query animal --query vehicle --save map.png\n"
        f"      semlens graph {db.path} --target {world.target}\n"
        f"      semlens report {db.path} --target {world.target} --concepts demo-world "
        f"--concepts artefacts\n"
        f"      semlens explain {db.path} "
        f"{folder / 'images' / world.target / 'test-0014.webp'} --save why.html\n"
        f"      semlens build --help\n",
        highlight=False,
        soft_wrap=True,
    )
    out.quiet = False
    if as_json:
        print_json(
            {
                "query": hits.query,
                "planted_rank": rank,
                "planted": {str(c): area for c, area in planted.components.items()},
                "accuracy": asdict(accuracy),
                "audit": {
                    "alarm": audit.alarm,
                    "p_value": audit.p_value,
                    "spurious": audit.share("spurious") + audit.share("both"),
                },
                "border_swap": {
                    "detected": borders.detected,
                    "adjusted": float(borders.frame["adjusted"].to_numpy(float).min()),
                },
                "components": db.manifest.rows,
                "seconds": round(seconds, 1),
                "database": db.location,
                "corrected": corrected.location,
                "page": str(page.resolve()),
                "target": world.target,
            }
        )
    elif serve and out.file.isatty():
        _serve([db, corrected])


def _serve(databases: list[ConceptDatabase]) -> None:
    from semlens.cli.serve import run
    from semlens.web.serve import make_server

    try:
        server = make_server(databases)
    except ServeError as error:  # the results were already printed
        err.print(f"Notice: {error}", markup=False, highlight=False, soft_wrap=True)
    else:
        run(server, browser=True)


def _print_hits(hits: Hits, planted: Planted, without: list[str], title: str) -> None:
    frame = hits.to_pandas().head(5)
    best = hits.components[:5]
    areas = [planted.components.get(component) for component in best]
    frame["planted"] = [f"AUROC {area:.2f}" if area is not None else "" for area in areas]
    _titled(f"\n{title}", frame, ["rank", "component", "alignment", "planted"])
    if without:
        words = " and ".join(f"'{word}'" for word in without)
        out.print(f"(Tried first, without a hit that stands out from noise: {words}.)")
    out.print(
        f"{hits.summary()} {len(planted.components)} of {hits.searched} components separate "
        f"images with the mark from the same images without it (AUROC >= 0.9). The search, which "
        f"does not know them, "
        f"finds the first of them at rank {planted.rank(hits)}."
    )


def _titled(title: str, frame: pd.DataFrame, columns: list[str] | None = None) -> None:
    """Print a table below a title that may be wider: commands stay whole, to be copied."""
    out.print(title, style="italic", markup=False, highlight=False, soft_wrap=True)
    table(frame, columns=columns)


def _print_relevant(relevant: RelevantComponents, planted: Planted, title: str) -> None:
    rows = [
        {
            "component": str(component),
            "mean_share": f"{100 * row['mean']:.1f} %",
            "max_share": f"{100 * row['max']:.1f} %",
            "label": row["label"] or "none",
            "planted": "yes" if component in planted.components else "",
        }
        for component, row in zip(
            relevant.components, relevant.frame.to_dict("records"), strict=True
        )
    ]
    _titled(
        f"{title} (share of its layer's relevance; labels: the paper's vocabulary)",
        pd.DataFrame(rows),
    )


def _print_audit(audit: Audit, title: str) -> None:
    spurious = audit.summary.query("kind == 'spurious' and components > 0")
    out.print(f"\n[italic]{title} --concepts demo-world --concepts artefacts[/]", highlight=False)
    out.print(audit.sentence, highlight=False)
    concepts = ", ".join(
        f"'{concept}' {100 * share:.0f} %"
        for concept, share in zip(spurious["concept"], spurious["relevance"], strict=True)
    )
    out.print(f"Spurious concepts, by share of relevance: {concepts or 'none'}.", highlight=False)


def _print_borders(borders: Swap, target: str, title: str) -> None:
    own = borders.frame["class"] == target
    gain, others = (borders.frame.loc[rows, "gain"].mean() for rows in (own, ~own))
    out.print(f"\n[italic]{title}[/]", highlight=False)
    out.print(
        f"Borders of '{target}' images, pasted onto images of other classes, raise its logit by "
        f"{gain:.1f}; borders of the other classes raise theirs by {others:.1f} on average. "
        f"Classes that rely on their surroundings: {', '.join(borders.detected) or 'none'} "
        f"(adjusted p = {borders.frame['adjusted'].min():.4f}).",
        highlight=False,
    )


def _print_accuracy(accuracy: Accuracy, removed: int, target: str) -> None:
    frame = pd.DataFrame(
        {
            "model": ["original", f"{removed} components pruned"],
            "without_the_mark": [accuracy.clean, accuracy.pruned_clean],
            "with_the_mark": [accuracy.watermarked, accuracy.pruned_watermarked],
        }
    )
    table(frame, "\n6. Accuracy on the test images")
    rates = accuracy.called_target
    out.print(
        f"Images of other classes predicted as '{target}': {100 * rates['clean']:.0f} % without "
        f"the mark, {100 * rates['watermarked']:.0f} % with it, and "
        f"{100 * rates['pruned_watermarked']:.0f} % with it after pruning."
    )
