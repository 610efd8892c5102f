"""Decide by measuring how EfficientNet-Lite0's weights want their padding and their pixels.

    python examples/efficientnet/measure_preprocessing.py efficientnet-images

Takes the prepared stamps whose file name holds the name of an ImageNet class ("...-zebra.jpg"),
and counts how often the network's first guess, or one of its first five, is such a class.
"""

import argparse
import re
from collections import defaultdict
from pathlib import Path

import torch
from model import network
from PIL import Image
from timm.data.imagenet_info import ImageNetInfo
from torchvision import transforms

ARCHITECTURES = ("efficientnet_lite0", "tf_efficientnet_lite0")
SCALES = {
    "0.5 / 0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "ImageNet mean / std": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def classes_by_word() -> dict[str, set[int]]:
    """Return the classes whose name is a word, or ends in it."""
    info = ImageNetInfo()
    found: dict[str, set[int]] = defaultdict(set)
    for number in range(1000):
        for name in info.index_to_description(number).lower().split(", "):
            found[name].add(number)
            found[name.split()[-1]].add(number)
    return found


def known_pictures(folder: Path) -> list[tuple[Path, set[int]]]:
    """Return the stamps that are named after a class."""
    classes = classes_by_word()
    known: list[tuple[Path, set[int]]] = []
    for path in sorted(folder.glob("stamp-*.jpg")):
        name = path.stem.rsplit("-", 1)[-1]
        words = [name.replace("_", " "), *re.findall("[a-z]+", name)]
        match = next((word for word in words if word in classes), None)
        if match and "cartoon" not in path.stem:
            known.append((path, classes[match]))
    return known


@torch.inference_mode()
def main() -> None:
    """Print a line per combination."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="made by fetch_images.py")
    known = known_pictures(parser.parse_args().folder)
    cut = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
        ]
    )
    pixels = torch.stack([cut(Image.open(path)) for path, _ in known])
    print(f"{len(known)} stamps are named after a class; right first, right among five:")
    for architecture in ARCHITECTURES:
        module = network(architecture)
        for name, (mean, std) in SCALES.items():
            batches = transforms.functional.normalize(pixels, list(mean), list(std)).split(32)
            best = torch.cat([module(batch) for batch in batches]).topk(5).indices.tolist()
            pairs = [(guess, right) for guess, (_, right) in zip(best, known, strict=True)]
            first = sum(guess[0] in right for guess, right in pairs)
            five = sum(not right.isdisjoint(guess) for guess, right in pairs)
            print(f"{architecture:24}{name:22}{first:5}{five:5}")


if __name__ == "__main__":
    main()
