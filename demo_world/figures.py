"""All evaluation results in one file, ``demo_world/figures.json``."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from demo_world.decoded import load_world
from demo_world.evaluate import DemoTowers, foundation_figures
from demo_world.labels import label_figures
from demo_world.planted import subject_figures
from demo_world.search import embed_images, search_figures
from demo_world.subject import as_input
from demo_world.text_tower import text_tower_figures
from demo_world.workspace import Workspace
from semlens.embedders.demo import ImageTower, load_image_tower, load_text_tower
from semlens.models.demo import load_demo_net

# Subjects to evaluate; the bundled one, world "main" with seed 0, was fixed beforehand.
SEEDS = {"main": (0, 1, 2), "held-out": (0,)}
EXTRA_QUERIES = {"patch": ("red square", "square", "sticker"), "texture": ("line", "stripes")}
FILE = Path(__file__).with_name("figures.json")


@dataclass(frozen=True)
class Towers:
    """The int8 towers of the package, and the image tower before quantisation."""

    quantised: DemoTowers
    reference: ImageTower


def load(work: Workspace) -> Towers:
    """Load the towers of the work folder."""
    reference = ImageTower()
    reference.load_state_dict(load_file(work.image_checkpoint))
    quantised = DemoTowers(load_image_tower(work.root), load_text_tower(work.root))
    return Towers(quantised, reference.eval())


def rounded(value: object) -> object:
    """Round all floats in a nested value to four digits."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    return [rounded(v) for v in value] if isinstance(value, list) else value


def world_figures(work: Workspace, towers: DemoTowers) -> dict[str, object]:
    """Evaluate all existing worlds and subjects."""
    figures: dict[str, object] = {}
    for name, seeds in SEEDS.items():
        folder = work.world(name)
        if not (folder / "world.json").exists():
            continue
        world = load_world(folder)
        vectors = embed_images(towers.image, as_input(world.pixels))
        for seed in seeds:
            file = folder / f"subject-{seed}.safetensors"
            if not file.exists():
                continue
            net = load_demo_net(file)
            record: dict[str, object] = {"subject": subject_figures(net, world)}
            extra = EXTRA_QUERIES.get(name, ())
            record["search"] = search_figures(net, world, vectors, towers.text, extra)
            if name == "main" and seed == 0:
                record["labels"] = label_figures(net, world, folder, vectors, towers.text)
            figures[f"{name}, subject seed {seed}"] = record
            print(name, seed, json.dumps(rounded(record)), flush=True)
    return figures


def write_figures(work: Workspace) -> None:
    """Evaluate everything that exists and write ``figures.json``."""
    start = time.time()
    towers = load(work)
    figures = {
        "foundation model": foundation_figures(work, towers.quantised, towers.reference),
        "text tower": text_tower_figures(work),
        "worlds": world_figures(work, towers.quantised),
    }
    FILE.write_text(json.dumps(rounded(figures), indent=1, ensure_ascii=False) + "\n")
    print(f"{FILE}, {time.time() - start:.0f} s")
