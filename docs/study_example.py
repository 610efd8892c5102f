"""Make the study of ``docs/study.md``: pages, answers of simulated raters, and a picture.

    python docs/study_example.py semlens-demo/demo.semlens OUT

Writes the page, the key and the answers of each study below OUT, and the pictures
``docs/images/study.webp`` and ``study-results.webp``.
Nine raters see the measure through noise; three guess.
"""

from __future__ import annotations

import csv
import io
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import semlens as sl
from semlens.lenses.study.study import Study

IMAGES = Path(__file__).parent / "images"
COLUMNS = ("study", "rater", "question", "answer", "confidence", "similarity")
CAREFUL, GUESSING = 9, 3
SHOWN = 3
"""Which question the picture shows."""
NOISE = 0.2
"""Standard deviation of what a careful rater sees about the measure."""
Row = dict[str, Any]


def points(value: float) -> int:
    """Return the nearest of the five points of a rating for a value from 0 to 1."""
    return 25 * round(4 * float(np.clip(value, 0, 1)))


def careful(question: Row, rng: np.random.Generator) -> Row:
    """Answer most controls rightly, and rate what the measure says with noise."""
    seen, right = question["value"] + rng.normal(0, NOISE), rng.random() < 0.86
    match question["kind"]:
        case "odd":
            wrong = rng.choice([name for name in "ABC" if name != question["right"]])
            confidence = points(1 - seen + rng.normal(0, NOISE))
            answer = question["right"] if right else wrong
            return {"answer": answer, "confidence": confidence, "similarity": points(seen)}
        case "rating":
            return {"answer": points(1.3 * seen)}
        case "clearer-control" | "clearer":
            return {"answer": "A" if seen > 0 else "B"}
        case "count-control":
            return {"answer": question["right"] if right else "none"}
        case _:
            return {"answer": "one" if seen < 0.7 else "two" if seen < 0.9 else "more"}


def guessing(question: Row, rng: np.random.Generator) -> Row:
    """Answer at random."""
    choices: dict[str, Any] = {
        "odd": list("ABC"),
        "rating": [0, 25, 50, 75, 100],
        "clearer-control": list("AB"),
        "clearer": list("AB"),
    }
    themes = ["one", "two", "more", "none"]
    ratings = {name: points(rng.random()) for name in ("confidence", "similarity")}
    return {"answer": rng.choice(choices.get(question["kind"], themes)), **ratings}


def write_answers(path: Path, study: Study, rater: str, answer: Callable[[Row], Row]) -> None:
    """Write the answers of a rater, in the format of the page."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for question in study.frame.to_dict("records"):
            head = {"study": study.id, "rater": rater, "question": question["question"]}
            writer.writerow(head | answer(question))


def screenshot(
    browser: Browser, page: Path, answers: Sequence[str], width: int, height: int
) -> Image.Image:
    """Answer questions of a page, and return its picture with the last of them."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme="light")
    tab = context.new_page()
    tab.goto(page.as_uri())
    tab.fill("#rater", "P07")
    tab.get_by_role("button", name="Start").click()
    for number, answer in enumerate(answers):
        if number:
            tab.locator("#next").click()
        tab.locator(f"label.set:has(input[value={answer}])").click()
        for scale, point in zip(tab.locator("#scales .pills").all(), (3, 1), strict=True):
            scale.locator("label").nth(point).click()
    taken = Image.open(io.BytesIO(tab.screenshot())).convert("RGB")
    context.close()
    return taken


def main() -> None:
    """Make everything."""
    db, out = sl.open(sys.argv[1]), Path(sys.argv[2]).resolve()
    for measure in ("similarity", "clarity", "polysemanticity"):
        study = db.study(measure)
        (out / measure).mkdir(parents=True, exist_ok=True)
        study.save(out / f"{measure}.html")
        study.save(out / f"{measure}.key.json")
        rng = np.random.default_rng(0)
        for number in range(CAREFUL + GUESSING):
            answer = careful if number < CAREFUL else guessing
            rater = f"P{number + 1:02d}"
            file = out / measure / f"{rater}.csv"
            write_answers(file, study, rater, partial(answer, rng=rng))
    page, key = out / "similarity.html", out / "similarity.key.json"
    right = db.study("similarity").frame["right"].tolist()[:SHOWN]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        wide = screenshot(chromium, page, right, 1160, 700)
        narrow = screenshot(chromium, page, right, 390, 940)
        chromium.close()
    narrow = narrow.resize((round(390 * 700 / 940), 700), Image.Resampling.LANCZOS)
    picture = Image.new("RGB", (wide.width + 24 + narrow.width, 700), "#d5dce5")
    picture.paste(wide, (0, 0))
    picture.paste(narrow, (wide.width + 24, 0))
    picture.save(IMAGES / "study.webp", quality=72, method=6)
    results = sl.study_results(key, sorted((out / "similarity").glob("*.csv")))
    results.save(out / "similarity.png")
    Image.open(out / "similarity.png").convert("RGB").save(
        IMAGES / "study-results.webp", quality=85, method=6
    )


if __name__ == "__main__":
    main()
