"""Export of the assets of the package: world, subject, towers, licences."""

import json
import shutil
import zipfile
from pathlib import Path

from safetensors.torch import load_file

from demo_world.workspace import ASSETS, Workspace
from semlens.embedders.demo import (
    IMAGE_ASSET,
    TEXT_ASSET,
    VOCABULARY_ASSET,
    ImageTower,
    save_quantised,
)
from semlens.embedders.photo import ASSET as PHOTO_ASSET
from semlens.models.demo import ASSET as SUBJECT_ASSET

FIXED_TIME = (1980, 1, 1, 0, 0, 0)  # makes the archive's bytes depend on its content only


def pack_images(folder: Path, target: Path) -> None:
    """Store a world's images and marks uncompressed in one archive, in sorted order."""
    files = sorted((*folder.glob("images/*/*.webp"), *folder.glob("marks/*.webp")))
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            name = file.relative_to(folder).as_posix()
            archive.writestr(zipfile.ZipInfo(name, FIXED_TIME), file.read_bytes())


def pack_world(folder: Path, seed: int, assets: Path) -> None:
    """Write ``world.json``, ``images.zip`` and ``subject.safetensors``."""
    assets.mkdir(parents=True, exist_ok=True)
    world = json.loads((folder / "world.json").read_text())
    (assets / "world.json").write_text(
        json.dumps(world, ensure_ascii=False, separators=(",", ":")) + "\n"
    )
    pack_images(folder, assets / "images.zip")
    shutil.copyfile(folder / f"subject-{seed}.safetensors", assets / SUBJECT_ASSET)


def quantised_image_tower(work: Workspace) -> Path:
    """Write the quantised image tower to the work folder."""
    tower = ImageTower()
    tower.load_state_dict(load_file(work.image_checkpoint))
    save_quantised(tower, work.root / IMAGE_ASSET)
    return work.root / IMAGE_ASSET


def pack_towers(work: Workspace, assets: Path) -> None:
    """Write the trained towers."""
    assets.mkdir(parents=True, exist_ok=True)
    if work.image_checkpoint.exists():
        quantised_image_tower(work)
    for name in (IMAGE_ASSET, TEXT_ASSET, VOCABULARY_ASSET):
        if (work.root / name).exists():
            shutil.copyfile(work.root / name, assets / name)


def pack_photo(work: Workspace, assets: Path) -> None:
    """Write the bundled part of the embedder for photographs, and its licences."""
    assets.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(work.root / PHOTO_ASSET, assets / PHOTO_ASSET)
    shutil.copyfile(Path(__file__).with_name("PHOTO_LICENSES.md"), assets / "LICENSES.md")


def pack(work: Workspace, world: str = "main", seed: int = 0, assets: Path = ASSETS) -> None:
    """Write all assets."""
    demo = assets / "demo"
    pack_world(work.world(world), seed, demo)
    pack_towers(work, demo)
    for name in ("LICENSES.md", "APACHE-2.0.txt"):
        shutil.copyfile(Path(__file__).with_name(name), demo / name)
    pack_photo(work, assets / "photo")
    shipped = sorted((*demo.iterdir(), *(assets / "photo").iterdir()))
    total = sum(path.stat().st_size for path in shipped)
    for path in shipped:
        print(f"{path.relative_to(assets)}: {path.stat().st_size / 1e6:.2f} MB")
    print(f"total {total / 1e6:.2f} MB")
