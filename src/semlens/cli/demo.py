"""``semlens demo``."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from semlens.cli.output import err, out, print_json, reported, table
from semlens.cli.progress import progress_bars


@reported
def demo(
    folder: Annotated[Path, typer.Option("--out", help="Where to leave what it makes.")] = Path(
        "semlens-demo"
    ),
    serve: Annotated[
        bool,
        typer.Option("--serve/--no-serve", help="Open the result in a browser, once there is one."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Find a planted fault in a bundled model: search, label, test, prune. Needs no network.

    Examples
    --------
    semlens demo

    semlens demo --json --no-serve --out /tmp/semlens-demo
    """
    start = time.perf_counter()
    with err.status("opening the bundled world"):
        from semlens.demo import page, story
        from semlens.demo.world import DemoWorld

        world = DemoWorld()
    say = out.print if not as_json else (lambda *_, **__: None)
    say(
        f"\nA small CNN was trained on {len(world.classes)} classes of pictures. "
        f"{100 * world.marked_share:.0f} % of the '{world.target}' images carried a mark: "
        f"{world.artefact}.\nCan we find that out from the model alone?\n"
    )
    with progress_bars() as progress:
        db = story.build_demo(folder, world, progress)
    if not as_json:
        table(db.scores().per_layer(), "\n1. How interpretable are its layers?")

    hits = db.search(story.QUERY, top=db.manifest.rows)
    with err.status("measuring the readouts with and without the mark"):
        model = db.load_model()
        planted = story.find_planted(model, world, db)
    rank = planted.rank(hits)
    shown = hits.to_pandas().head(5)
    shown.insert(1, "component", [str(hit.component) for hit in hits.hits[:5]])
    shown["planted"] = [
        f"AUROC {planted.components[hit.component]:.2f}"
        if hit.component in planted.components
        else ""
        for hit in hits.hits[:5]
    ]
    if not as_json:
        columns = ["rank", "component", "alignment", "planted"]
        table(shown, f"\n2. semlens search {db.path} {story.QUERY}", columns)
    say(
        f"{len(planted.components)} of {db.manifest.rows} components tell images with the mark from "
        f"the same images without it; the best of them is found at rank {rank}."
    )

    labels = db.label()
    relevant = story.most_relevant(model, world, labels)
    if not as_json:
        frame = pd.DataFrame(
            [
                {
                    "component": str(r.component),
                    "part_in_the_logit": r.contribution,
                    "label": r.label or "none",
                    "planted": "yes" if r.component in planted.components else "",
                }
                for r in relevant
            ]
        )
        table(frame, f"\n3. What drives '{world.target}'? (labels: the paper's vocabulary)")

    with err.status("testing with the mark on and off, and pruning"):
        accuracy = story.measure(model, world, planted)
    if not as_json:
        frame = pd.DataFrame(
            [
                {
                    "model": "as it is",
                    "no_mark": accuracy.clean,
                    "mark_on_all": accuracy.watermarked,
                },
                {
                    "model": f"{len(planted.components)} components pruned",
                    "no_mark": accuracy.pruned_clean,
                    "mark_on_all": accuracy.pruned_watermarked,
                },
            ]
        )
        table(frame, "\n4. Accuracy on the test images")
    say(
        f"Other classes called '{world.target}': {100 * accuracy.called_target['clean']:.0f} % without the mark, "
        f"{100 * accuracy.called_target['watermarked']:.0f} % with it."
    )
    where = folder / "index.html"
    page.write_page(where, db, world, hits, planted, relevant, accuracy)
    seconds = time.perf_counter() - start
    if as_json:
        print_json(
            {
                "planted_rank": rank,
                "planted": {str(c): area for c, area in planted.components.items()},
                "accuracy": asdict(accuracy),
                "components": db.manifest.rows,
                "seconds": round(seconds, 1),
                "database": str(db.path.resolve()),
                "page": str(where.resolve()),
                "target": world.target,
            }
        )
        return
    out.print(f"\nDone in {seconds:.0f} s. See the pictures: {where}", highlight=False)
    out.print(
        f"Try:  semlens search {db.path} 'red fruit' --out hits.png\n"
        f"      semlens label {db.path} --layer layer3\n"
        f"      semlens build mine.semlens --help\n",
        highlight=False,
    )
    if serve:
        err.print("There is no browser application yet; the page above opens from disk.")
