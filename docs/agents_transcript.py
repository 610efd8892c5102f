"""Write the transcript of docs/agents.md: an audit by hypothesis, experiment and verdict.

    pip install '.[mcp]'
    semlens demo --no-serve
    python docs/agents_transcript.py semlens-demo/demo.semlens

A client of the Model Context Protocol starts ``semlens mcp`` and calls its tools, as an agent does.
The words between the calls are those of this script; all numbers come from the answers, and a
conclusion that they do not support ends the script. The loop is that of MAIA (Shaham et al., "A
Multimodal Automated Interpretability Agent", ICML 2024): observe, hypothesise, test by an
experiment on images that are made for it, and revise.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import sys
import tempfile
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from mcp import ClientSession, StdioServerParameters, stdio_client
from PIL import Image, ImageDraw

from semlens.demo.bundled_images import BundledImage, DemoWorld

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/agents.md"
START, END = "<!-- transcript -->\n", "<!-- end of transcript -->\n"
TARGET = "vegetable"
PER_CLASS = 4
"""Images of each other class that the experiments use."""
VALID = ["vegetable", "leafy green", "root vegetable", "plant"]
SPURIOUS = ["text", "letters", "watermark"]
LINES, WIDTH = 12, 110
"""Lines of an answer that the page shows, and characters of a line."""
KEPT: Any = {
    "replace_whitespace": False, "subsequent_indent": "    ", "break_on_hyphens": False,
}  # fmt: skip
"""How lines of an answer are wrapped: tables keep their columns."""


@dataclass
class Transcript:
    """A session with the tools, and what the page says about it."""

    session: ClientSession
    pictures: Path
    parts: list[str] = field(default_factory=list)

    def say(self, *words: str) -> None:
        """Add a paragraph, as a line that is wrapped later."""
        self.parts.append(wrapped(" ".join(words)))

    async def call(
        self, name: str, lines: int = LINES, picture: str = "", alt: str = "", **arguments: Any
    ) -> dict[str, Any]:
        """Call a tool, add the call and its answer, and return the structured numbers."""
        answer = await self.session.call_tool(name, {**arguments, "picture": bool(picture)})
        text = answer.content[0].text
        if answer.is_error:
            raise SystemExit(f"{name} {arguments}: {text}")
        shown = text.rstrip().splitlines()
        if len(shown) > lines:
            shown = [*shown[:lines], f"... ({len(shown) - lines} more lines)"]
        body = [f"{name} {json.dumps(arguments, ensure_ascii=False)}", "", *shown]
        body = [line for long in body for line in textwrap.wrap(long, WIDTH, **KEPT) or [""]]
        self.parts.append("\n".join(["```text", *body, "```"]))
        if picture:
            content = base64.b64decode(answer.content[1].data)
            with Image.open(io.BytesIO(content)) as image:
                image.save(self.pictures / f"{picture}.webp", quality=75, method=6)
            self.parts.append(f"![{alt}](images/{picture}.webp)")
        return answer.structured_content


def wrapped(text: str) -> str:
    """Wrap a paragraph to the width of the documentation."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def make_images(folder: Path) -> int:
    """Write images of the other classes: plain, with the mark, and with a bar in its place.

    An agent that can edit pictures makes such images itself.
    """
    world, number = DemoWorld(), 0
    taken: dict[str, int] = {}
    for picture in world.pictures:
        if picture.split != "test" or picture.target == world.target:
            continue
        taken[picture.target] = taken.get(picture.target, 0) + 1
        if taken[picture.target] > PER_CLASS:
            continue
        versions = {
            "plain": world.image(picture, "clean"),
            "marked": world.image(picture, "marked"),
            "bar": with_bar(world, picture),
        }
        for name, image in versions.items():
            (folder / name).mkdir(exist_ok=True)
            image.save(folder / name / f"{number:03d}.png")
        number += 1
    return number


def with_bar(world: DemoWorld, picture: BundledImage) -> Image.Image:
    """Return an image with a white, dark-edged bar where its mark would be."""
    image = world.image(picture, "clean")
    box = world.marks[picture.mark].getchannel("A").getbbox()
    ImageDraw.Draw(image).rectangle(box, fill="white", outline="black")
    return image


def shift_of(contrast: dict[str, Any], name: str) -> tuple[float, float]:
    """Return the shift of a class's logit between two groups, and its p-value."""
    row = next(row for row in contrast["logits"] if row["class"] == name)
    return row["shift"], row["p_value"]


def supported(condition: bool, claim: str) -> None:
    """End the script if the answers do not support a conclusion of the page."""
    if not condition:
        raise SystemExit(f"The answers do not support: {claim}")


async def audit(log: Transcript, images: int) -> None:
    """Audit the class: observe, then hypothesis, experiment and verdict, twice."""
    log.say("**Observe.** What is there to ask about?")
    await log.call("overview", lines=5)
    log.say(
        f"Does `{TARGET}` rely on what vegetables look like? The lists say what it should and",
        "should not rely on.",
    )
    found = await log.call("audit", lines=11, target=TARGET, valid=VALID, spurious=SPURIOUS)
    spurious = [row for row in found["components"] if row["verdict"] == "spurious"]
    names = [row["component"] for row in spurious[:4]]
    supported(len(names) == 4, "four spurious components are listed")
    log.say(
        "**Hypothesis 1.**",
        f"The logit of `{TARGET}` is raised by written text, through components such as",
        f"{', '.join(f'`{name}`' for name in names)}.",
        "If so, these components react to text, and the logit needs them.",
    )
    log.say("**Experiment 1a: look.** What does the first of them react to?")
    seen = await log.call(
        "component", lines=1, picture="agents-component", component=names[0],
        alt=f"Examples of {names[0]}: text marks on different objects",
    )  # fmt: skip
    classes = [example["class"] for example in seen["examples"]]
    log.say(
        f"Different objects, and text on each: {classes.count(TARGET)} of {len(classes)} examples",
        f"are of the class `{TARGET}`.",
    )
    log.say("**Experiment 1b: ablate.** How much of the logit goes through these components?")
    effects = await log.call("effect", lines=8, target=TARGET, components=names, samples=40)
    total = sum(row["effect"] for row in effects["effects"])
    supported(all(row["effect"] > 0 for row in effects["effects"]), "all effects are positive")
    log.say(
        f"Each one speaks for `{TARGET}`; one by one they take {total:.2f} of a mean logit of",
        f"{effects['logit']:.2f}. This does not tell whether *text* does it: on these images,",
        "marks and vegetables come together. Only images that differ in the mark alone can.",
    )
    log.say(
        f"**Experiment 1c: intervene.** The folder of allowed images has {images} images of the",
        "*other* classes, `plain`, and the same with the mark, `marked`. File names are equal, so",
        "the test is paired.",
    )
    marked = await log.call(
        "contrast", lines=7, picture="agents-contrast", a="marked", b="plain", rows=200,
        alt="Components and logits that tell marked images from plain ones",
    )  # fmt: skip
    shift, p_value = shift_of(marked, TARGET)
    supported(shift > 0 and p_value < 0.05, "the mark raises the logit")
    tested = {row["component"]: row for row in marked["components"]}
    agree = [n for n in names if n in tested and tested[n]["p_value"] < 0.05]
    log.say(
        f"**Verdict 1: confirmed.** The mark alone raises the logit of `{TARGET}` by {shift:.2f}",
        f"(p = {p_value:.4f}) on images without a vegetable, and {marked['different']} components",
        f"react to it, {len(agree)} of the {len(names)} above among them.",
    )
    log.say(
        "**Hypothesis 2, a rival.** It is not the text: anything bright with a dark edge at this",
        "place would do. Then a blank bar of the same size raises the logit as much.",
    )
    bar = await log.call("contrast", lines=5, a="bar", b="plain", rows=200)
    bar_shift, bar_p = shift_of(bar, TARGET)
    direct = await log.call("contrast", lines=5, a="marked", b="bar", rows=200)
    more, more_p = shift_of(direct, TARGET)
    supported(more > 0 and more_p < 0.05, "the mark raises the logit more than the bar does")
    log.say(
        f"**Verdict 2: refuted.** The bar changes the logit of `{TARGET}` by {bar_shift:+.2f}",
        f"(p = {bar_p:.4f}); the mark exceeds it by {more:.2f} (p = {more_p:.4f}). The strokes",
        "matter, not a bright patch.",
    )
    log.say(
        f"**Report.** `{TARGET}` is recognised by a text mark: an alarm of the audit, ablated",
        "components, and a controlled change of the images agree. Next for the user:",
        "[correct the model](correct.md).",
    )


async def run(database: str, pictures: Path) -> str:
    """Start the server, hold the session and return the transcript as Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        images = make_images(Path(folder))
        server = StdioServerParameters(
            command=sys.executable,
            args=["-m", "semlens.cli", "mcp", database, "--images", folder],
            env={"PYTHONPATH": str(ROOT / "src")},
        )
        async with stdio_client(server) as (read, write), ClientSession(read, write) as session:
            await session.initialize()
            log = Transcript(session, pictures)
            await audit(log, images)
    return "\n\n".join(log.parts) + "\n"


def main() -> None:
    """Write the transcript into the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("database", help="The database of semlens demo.")
    text = anyio.run(run, parser.parse_args().database, ROOT / "docs/images")
    head, _, rest = PAGE.read_text("utf-8").partition(START)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{START}\n{text}\n{END}{tail}", "utf-8")


if __name__ == "__main__":
    main()
