"""Measure which padding and pixel scaling EfficientNet-Lite0's weights expect.

    python examples/efficientnet/measure_preprocessing.py efficientnet-images

Uses the prepared stamps whose file name contains the name of an ImageNet class
("...-zebra.jpg"), and counts how often the top prediction, or one of the top five, is correct.
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
    """Map each class name, and the last word of each class name, to its classes."""
    info = ImageNetInfo()
    classes: dict[str, set[int]] = defaultdict(set)
    for number in range(1000):
        for name in info.index_to_description(number).lower().split(", "):
            classes[name].add(number)
            classes[name.split()[-1]].add(number)
    return classes


def labelled_pictures(folder: Path) -> list[tuple[Path, set[int]]]:
    """Return the stamps that are named after a class, with the matching classes."""
    classes = classes_by_word()
    labelled: list[tuple[Path, set[int]]] = []
    for path in sorted(folder.glob("stamp-*.jpg")):
        name = path.stem.rsplit("-", 1)[-1]
        words = [name.replace("_", " "), *re.findall("[a-z]+", name)]
        match = next((word for word in words if word in classes), None)
        if match and "cartoon" not in path.stem:
            labelled.append((path, classes[match]))
    return labelled


@torch.inference_mode()
def main() -> None:
    """Print one line per combination."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder written by fetch_images.py")
    labelled = labelled_pictures(parser.parse_args().folder)
    crop = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
        ]
    )
    pixels = torch.stack([crop(Image.open(path)) for path, _ in labelled])
    print(f"{len(labelled)} stamps are named after a class; top 1 and top 5 correct:")
    for architecture in ARCHITECTURES:
        module = network(architecture)
        for name, (mean, std) in SCALES.items():
            batches = transforms.functional.normalize(pixels, list(mean), list(std)).split(32)
            best = torch.cat([module(batch) for batch in batches]).topk(5).indices.tolist()
            pairs = [(guess, correct) for guess, (_, correct) in zip(best, labelled, strict=True)]
            first = sum(guess[0] in correct for guess, correct in pairs)
            five = sum(not correct.isdisjoint(guess) for guess, correct in pairs)
            print(f"{architecture:24}{name:22}{first:5}{five:5}")


if __name__ == "__main__":
    main()
