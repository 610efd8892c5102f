"""Run the example: build the database, find the channels, measure them, prune them.

    python examples/carton/run.py carton --json figures.json

Expects the photographs that ``fetch_photographs.py`` has written to the same folder, and prints
each semlens command before it runs. The figures of README.md are those of ``figures.json``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from embedder_parts import rises
from fetch_photographs import DATABASE
from marks import SIDE, masks
from measure import (
    CARTON,
    LAYERS,
    SEPARATES,
    Head,
    Passes,
    accuracy,
    auroc,
    effect,
    find,
    load_head,
    other_choices,
    prune_effect,
    random_rises,
    random_sets,
    run_network,
)

import semlens as sl

MODEL = "examples/efficientnet/model.py:make"
EMBEDDER = "semlens/photo"
TEXTS = ("Chinese text", "text", "letters", "watermark", "carton", "cardboard box")
ROOT = Path(__file__).parents[2]


def semlens(*arguments: object) -> str:
    """Print and run a command; return what it prints."""
    words = [str(argument) for argument in arguments]
    print("$ semlens", *(f"'{word}'" if " " in word else word for word in words), flush=True)
    command = [sys.executable, "-m", "semlens.cli", *words]
    return subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout


def read_passes(folder: Path, versions: tuple[str, ...]) -> dict[str, Passes]:
    """Run the network on the versions of one half, or read what an earlier run has kept."""
    kept: dict[str, Passes] = {}
    for version in versions:
        names = sorted(path.stem for path in (folder / version).glob("*.png"))
        file = folder.parent / "passes" / f"{folder.name}-{version}.npz"
        if not file.exists():
            print(f"running the network on {folder.name}/{version}", flush=True)
            file.parent.mkdir(exist_ok=True)
            np.savez(file, **run_network(folder / version).means)
        with np.load(file) as means:
            kept[version] = Passes(names, {layer: means[layer] for layer in LAYERS})
    return kept


def contrast_groups(folder: Path, database: Path) -> list[dict[str, Any]]:
    """Contrast marked with plain photographs; return all components with their AUROC."""
    saved = folder / "contrast.json"
    semlens("contrast", database, "--a", folder / "find/chinese", "--b", folder / "find/plain",
            "--model", MODEL, "--concepts", "none", "--save", saved)  # fmt: skip
    return json.loads(saved.read_text("utf-8"))["components"]


def searches(folder: Path, database: Path, wanted: set[str], embedder: str) -> list[dict[str, Any]]:
    """Search for the mark by words and by pictures, and say where the channels are found."""
    marked, plain = (folder / "measure" / name for name in ("other-chinese", "plain"))
    queries: dict[str, list[object]] = {f'"{text}"': [text] for text in TEXTS}
    one = sorted(marked.glob("left--on-*.png"))[0]
    queries["one marked photograph"] = ["--image", one]
    queries["marked photographs"] = ["--image", marked]
    queries["marked photographs, without plain ones"] = [
        "--image", marked, "--without-image", plain,
    ]  # fmt: skip
    rows: list[dict[str, Any]] = []
    for name, query in queries.items():
        every = ("--top", 10_000, "--embedder", embedder, "--json")
        hits = json.loads(semlens("search", database, *query, *every))["hits"]
        ranks = sorted(hit["rank"] for hit in hits if hit["component"] in wanted)
        rows.append({
            "query": name, "best": ranks[0], "median": float(np.median(ranks)),
            "last": ranks[-1], "in_ten": sum(rank <= 10 for rank in ranks),
            "in_hundred": sum(rank <= 100 for rank in ranks), "components": len(hits),
        })  # fmt: skip
    return rows


def examples_of(database: Path, channels: list[str]) -> list[dict[str, Any]]:
    """Count from which folders the examples of the channels come, and what their crops hold."""
    db = sl.open(database)
    ink = masks()["chinese"].mask
    rows: list[dict[str, Any]] = []
    for row, channel in zip(db.rows_of(channels), channels, strict=True):
        examples = db.examples_of(int(row))
        versions = [Path(example.path).parts[0] for example in examples]
        boxes = [e.box for e, v in zip(examples, versions, strict=True) if v == "chinese"]
        inside = [ink[b.top : b.bottom, b.left : b.right].sum() / ink.sum() for b in boxes]
        area = [(b.right - b.left) * (b.bottom - b.top) / SIDE**2 for b in boxes]
        rows.append({
            "component": channel, "examples": len(examples),
            **{version: versions.count(version) for version in DATABASE},
            "ink_in_crop": float(np.mean(inside)) if boxes else None,
            "crop_area": float(np.mean(area)) if boxes else None,
        })  # fmt: skip
    return rows


def pruned_difference(
    folder: Path, database: Path, head: Head, plain: Passes, channels: list[int]
) -> float:
    """Prune by the command, and return the largest difference to the arithmetic on means."""
    weights = folder / "pruned.safetensors"
    source = ("--from", folder / "contrast.json", "--auroc", SEPARATES, "--save", weights)
    print(semlens("correct", "prune", database, *source, "--model", MODEL))
    model = sl.load_model(f"{ROOT / MODEL}:weights={weights}")
    images = sl.load_images(folder / "measure" / "plain")
    shown = list(range(0, len(images), 20))
    inputs = model.batch([model.preprocess(images.read(i)) for i in shown])
    answers = model.module(inputs).detach().numpy()
    rows = [plain.names.index(Path(images.ids[i]).stem) for i in shown]
    return float(np.abs(answers - head.logits(plain.means["bn2"][rows], channels)).max())


def main() -> None:
    """Run all steps."""
    parser = argparse.ArgumentParser(description="Find and prune the channels behind the mark.")
    parser.add_argument("folder", type=Path, help="folder of fetch_photographs.py")
    parser.add_argument("--json", type=Path, default=Path("figures.json"), help="file to write")
    parser.add_argument("--embedder", default=EMBEDDER, help=f"embedder [{EMBEDDER}]")
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    database = folder / f"{options.embedder.split('/')[-1]}.semlens"
    semlens("build", database, "--model", MODEL, "--data", folder / "find", "--layers", "bn2",
            "--embedder", options.embedder, "--examples", 6, "--crop", "activation")  # fmt: skip
    table = contrast_groups(folder, database)
    channels = [row["component"] for row in table if row["auroc"] >= SEPARATES]
    picture = folder / "channels.png"
    semlens("show", database, *channels, "--mask", "--save", picture)
    found = read_passes(folder / "find", DATABASE)
    passes = read_passes(folder / "measure", ("plain", *masks()))
    head = load_head()
    ranked = find(found["plain"], found["chinese"])
    chosen = [int(name.split(":")[1]) for name in channels]
    means = {version: p.means["bn2"] for version, p in passes.items()}
    sets = random_sets(found["plain"].means["bn2"], chosen)

    def random_rise(mark: str) -> float:
        return float(random_rises(head, passes["plain"], passes[mark], sets).mean())

    by_mark = {mark: auroc(means[mark], means["plain"])[chosen].tolist() for mark in masks()}
    own = dict(zip(ranked["order"], ranked["auroc"], strict=True))
    figures = {
        "embedder": options.embedder,
        "photographs": {"find": len(found["plain"].names), "measure": len(passes["plain"].names)},
        "ink": {name: layer.ink for name, layer in masks().items()},
        "layers": ranked["layers"],
        "contrast": [row for row in table if row["component"] in channels],
        "contrast_difference": max(abs(row["auroc"] - own[int(row["component"].split(":")[1])])
                                   for row in table),
        "held_out": {mark: dict(zip(channels, values, strict=True))
                     for mark, values in by_mark.items()},
        "weights": {name: {"place": int(place), "weight": float(head.weight[CARTON, channel])}
                    for name, channel, place in zip(
                        channels, chosen, _places(head.weight[:, chosen]), strict=True)},
        "embedder_parts": rises(folder / "measure") if options.embedder == EMBEDDER else None,
        "searches": searches(folder, database, set(channels), options.embedder),
        "examples": examples_of(database, channels),
        "plain_place": float(np.median(_places(head.logits(means["plain"]).T))),
        "effects": {mark: effect(head, passes["plain"], passes[mark]) for mark in masks()},
        "effects_pruned": {mark: effect(head, passes["plain"], passes[mark], chosen)
                           for mark in masks()},
        "random_rises": {mark: random_rise(mark) for mark in masks()},
        "pruning": prune_effect(head, ranked, passes, found["plain"], "chinese"),
        "choices": other_choices(head, found, passes, "chinese"),
        "accuracy": {name: {state: accuracy(head, passes[name], without)
                            for state, without in (("original", ()), ("pruned", chosen))}
                     for name in ("plain", "chinese", "latin-lines")},
        "pruned_difference": pruned_difference(folder, database, head, passes["plain"], chosen),
    }  # fmt: skip
    options.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    print(f"{options.json} written")


def _places(scores: np.ndarray) -> np.ndarray:
    """Return the place of carton in each column of [1000, n]."""
    return (scores > scores[CARTON]).sum(0) + 1


if __name__ == "__main__":
    main()
