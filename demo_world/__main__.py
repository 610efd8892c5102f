"""Command line of the build scripts: ``python -m demo_world STEP --work DIR``."""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from demo_world.marks import KINDS
from demo_world.workspace import ASSETS, Workspace


def _sources(work: Workspace, _: argparse.Namespace) -> None:
    from demo_world.fetch import fetch
    from demo_world.rasterise import rasterise

    fetch(work)
    rasterise(work)


def _captions(work: Workspace, _: argparse.Namespace) -> None:
    from demo_world.captions import write_captions
    from demo_world.text_space import write_text_space

    write_captions(work)
    write_text_space(work)


def _text(work: Workspace, _: argparse.Namespace) -> None:
    from demo_world.text_tower import train_text_tower

    train_text_tower(work)


def _image(work: Workspace, _: argparse.Namespace) -> None:
    from demo_world.features import write_features
    from demo_world.image_tower import TowerRecipe, train_image_tower
    from demo_world.pack import quantised_image_tower

    write_features(work)
    train_image_tower(work, TowerRecipe())
    quantised_image_tower(work)


def _photo(work: Workspace, _: argparse.Namespace) -> None:
    from demo_world.photo_features import write_photo_features
    from demo_world.photo_head import write_photo_asset

    write_photo_features(work)
    write_photo_asset(work)


def _world(work: Workspace, options: argparse.Namespace) -> None:
    from demo_world.marks import MarkSpec
    from demo_world.specs import WORLDS
    from demo_world.worlds import WorldSpec, build_world

    spec = WORLDS.get(options.world, WorldSpec(options.world))
    if options.world_seed is not None:
        spec = replace(spec, seed=options.world_seed)
    if options.target is not None:
        spec = replace(spec, target=options.target)
    if options.mark is not None and options.mark != spec.mark.kind:
        kinds = {s.mark.kind: s.mark for s in reversed(WORLDS.values())}
        spec = replace(spec, mark=kinds.get(options.mark, MarkSpec(kind=options.mark)))
    build_world(spec, work, options.into or work.world(spec.name))


def _subject(work: Workspace, options: argparse.Namespace) -> None:
    from demo_world.decoded import load_world
    from demo_world.nets import load_subject, save_subject, subject_file
    from demo_world.planted import subject_figures
    from demo_world.subject import recipe_for, train_subject

    folder = options.into or work.world(options.world)
    world = load_world(folder)
    net = train_subject(world, recipe_for(options.architecture, options.seed))
    file = subject_file(folder, options.architecture, options.seed)
    save_subject(net, file)
    print(json.dumps(subject_figures(load_subject(file), world)))


def _evaluate(work: Workspace, _: argparse.Namespace) -> None:
    from demo_world.figures import write_figures

    write_figures(work)


def _pack(work: Workspace, options: argparse.Namespace) -> None:
    from demo_world.pack import pack

    pack(work, options.world, options.seed, options.assets)


def _all(work: Workspace, options: argparse.Namespace) -> None:
    from demo_world.figures import SEEDS

    for step in (_sources, _captions, _text, _image, _photo):
        step(work, options)
    for name, seeds in SEEDS.items():
        options.world = name
        _world(work, options)
        for options.seed in seeds:
            _subject(work, options)
    _evaluate(work, options)
    options.world, options.seed = "main", 0
    _pack(work, options)


STEPS: dict[str, Callable[[Workspace, argparse.Namespace], None]] = {
    "sources": _sources,
    "captions": _captions,
    "text": _text,
    "image": _image,
    "photo": _photo,
    "world": _world,
    "subject": _subject,
    "evaluate": _evaluate,
    "pack": _pack,
    "all": _all,
}


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m demo_world", description=__doc__)
    add = parser.add_argument
    add("step", choices=sorted(STEPS), help="step to run; 'all' runs all of them")
    add("--work", type=Path, required=True, help="work folder; needs about 5 GB")
    add(
        "--assets", type=Path, default=ASSETS, help="output folder of 'pack' (default: the package)"
    )
    add("--world", default="main", help="name in specs.py, or a new name")
    add("--into", type=Path, help="folder of the world (default: WORK/worlds/NAME)")
    add("--target", help="class with the artefact")
    add("--mark", help=f"kind of artefact: {', '.join(KINDS)}")
    add("--world-seed", type=int, help="seed of the world's images")
    add("--seed", type=int, default=0, help="seed of the subject's training")
    kinds = ["demo", "small", "vgg", "mobile", "vit"]
    add("--architecture", choices=kinds, default="demo", help="network of the subject")
    add("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads")
    return parser


def main() -> None:
    """Run one step."""
    options = make_parser().parse_args()
    torch.set_num_threads(options.threads)
    work = Workspace(options.work.resolve())
    work.root.mkdir(parents=True, exist_ok=True)
    STEPS[options.step](work, options)


if __name__ == "__main__":
    main()
