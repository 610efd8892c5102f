"""Images with small coloured squares, their masks, and a model whose channels are the colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SIZE, SEEN = (96, 80), 64
"""Width and height of the images, and sides of the centre that the model sees."""
SIDE = 4


class ColourNet(nn.Module):
    """Channel 0, 1 and 2 are 1 where the image is red, green or blue, else 0; 3 is brightness."""

    def __init__(self, untrained: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.colours = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.ReLU())
        self.coarse = nn.AvgPool2d(2)
        self.head = nn.Linear(4, 3)
        if not untrained:
            rows = [[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1 / 3, 1 / 3, 1 / 3]]
            self.colours[0].weight.data = torch.tensor(rows).float()[:, :, None, None]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.coarse(self.colours(x)).mean((2, 3)))


def centre(image: Image.Image) -> Tensor:
    """Crop the centre, without any resampling."""
    left, top = (image.width - SEEN) // 2, (image.height - SEEN) // 2
    crop = image.crop((left, top, left + SEEN, top + SEEN))
    return torch.from_numpy(np.array(crop, np.float32)).permute(2, 0, 1) / 255


def write_world(folder: Path, count: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """Write images, and both forms of masks; each image has each colour with probability 3/4.

    Returns
    -------
    dict
        The labels of each image, uint8[height width]: 0, or 1 + the number of the colour.
    """
    random = np.random.default_rng(seed)
    labels: dict[str, np.ndarray] = {}
    for number in range(count):
        name = f"class{number % 2}/{number:03d}"
        grey = random.integers(60, 120, (SIZE[1], SIZE[0], 1))
        pixels, label = np.repeat(grey, 3, axis=2), np.zeros((SIZE[1], SIZE[0]), np.uint8)
        places = random.permutation(SIZE[0] // 8)[: len(COLOURS)] * 8  # columns without overlap
        for index, colour in enumerate(COLOURS.values()):
            if random.random() < 0.75:
                y, x = random.integers(0, SIZE[1] - SIDE), places[index]
                pixels[y : y + SIDE, x : x + SIDE] = colour
                label[y : y + SIDE, x : x + SIDE] = index + 1
        labels[name] = label
        save(folder / "images" / f"{name}.bmp", pixels.astype(np.uint8))
        save(folder / "indexed" / f"{name}.png", label)
        for index, colour in enumerate(COLOURS):
            if (label == index + 1).any():
                mask = 255 * (label == index + 1)
                save(folder / "folders" / colour / f"{name}.png", mask.astype(np.uint8))
    (folder / "indexed" / "classes.txt").write_text("\n".join(["", *COLOURS]))
    return labels


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
