"""Measured geometry of real preprocessing against what its settings say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as T
from torchvision.transforms._presets import ImageClassification

from semlens.errors import ModelError
from semlens.models.preprocess_geometry import measure_geometry

SIZES = [(224, 224), (500, 375), (375, 500), (256, 256), (97, 131), (30, 400), (4000, 50)]
TINY = [(1, 1), (1, 40), (2, 2), (3, 5), (8, 300)]


def placed(width, height, resized, crop):
    """The part of the original under a centred crop (width, height) of the resized image."""
    ends = []
    for size, large, part in zip((width, height), resized, crop, strict=True):
        start = (large - part) / 2
        ends.append((start * size / large, (start + part) * size / large))
    return ends


def shorter(width, height, size):
    """The resized sizes of torchvision and timm: the shorter side becomes ``size``."""
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def compare(preprocess, width, height, expected, slack=1.0):
    """Edges within ``slack`` pixels of the original or of the input, whichever is more."""
    geometry = measure_geometry(preprocess, width, height)
    shape = preprocess(Image.new("RGB", (width, height))).shape
    for axis, size, (start, stop), original in (
        (geometry.horizontal, shape[2], expected[0], width),
        (geometry.vertical, shape[1], expected[1], height),
    ):
        if original == 1:
            continue
        allowed = slack * max(1.0, abs(stop - start) / size)
        assert abs(axis.offset - start) <= allowed, (axis, start, stop)
        assert abs(axis.scale * size + axis.offset - stop) <= allowed, (axis, start, stop)
    inside(geometry, shape, width, height)


def inside(geometry, shape, width, height):
    random = np.random.default_rng(0)
    for _ in range(20):
        left, right = np.sort(random.integers(0, shape[2] + 1, 2)).astype(float).tolist()
        top, bottom = np.sort(random.integers(0, shape[1] + 1, 2)).astype(float).tolist()
        box = geometry.to_original(left, top, right, bottom)
        assert 0 <= box.left < box.right <= width
        assert 0 <= box.top < box.bottom <= height


@pytest.mark.parametrize(("width", "height"), SIZES + TINY)
@pytest.mark.parametrize(("resize", "crop"), [(256, 224), (64, 64)])
def test_torchvision_presets(width, height, resize, crop):
    if max(width, height) > 12 * min(width, height) and resize != 64:
        pytest.skip("the same case at another scale")
    preset = ImageClassification(crop_size=crop, resize_size=resize)
    expected = placed(width, height, shorter(width, height, resize), (crop, crop))
    compare(preset, width, height, expected)


@pytest.mark.parametrize(("width", "height"), SIZES + TINY)
def test_squash(width, height):
    whole = [(0, width), (0, height)]
    compare(T.Compose([T.Resize((96, 160)), T.ToImage(), T.ToDtype(torch.float32, scale=True)]),
            width, height, whole)  # fmt: skip
    for interpolation in (InterpolationMode.BICUBIC, InterpolationMode.NEAREST):
        compare(
            T.Compose(
                [T.Resize((64, 64), interpolation), T.ToImage(), T.ToDtype(torch.float32, True)]
            ),
            width,
            height,
            whole,
        )


@pytest.mark.parametrize(("width", "height"), SIZES + TINY[2:])
@pytest.mark.parametrize(("crop_pct", "interpolation"), [(0.875, "bicubic"), (1.0, "bilinear")])
def test_timm_centre_crop(width, height, crop_pct, interpolation):
    transform = create_transform(
        (3, 64, 64), crop_pct=crop_pct, interpolation=interpolation, crop_mode="center"
    )
    resized = shorter(width, height, int(64 / crop_pct))
    compare(transform, width, height, placed(width, height, resized, (64, 64)))


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_timm_squash_and_border(width, height):
    squash = create_transform((3, 96, 96), crop_pct=0.9, crop_mode="squash")
    resized = (106, 106)
    compare(squash, width, height, placed(width, height, resized, (96, 96)))
    border = create_transform((3, 96, 96), crop_pct=1.0, crop_mode="border")
    longer = 96 / max(width, height)
    resized = (max(1, round(width * longer)), max(1, round(height * longer)))
    if min(resized) < 2:
        return  # one row of pixels of the input shows the whole side
    compare(border, width, height, placed(width, height, resized, (96, 96)), slack=2.0)


def vit():
    return transformers.ViTImageProcessor(size={"height": 64, "width": 64})


def clip():
    return transformers.CLIPImageProcessor(
        size={"shortest_edge": 72}, crop_size={"height": 64, "width": 64}
    )


def dinov2():
    return transformers.BitImageProcessor(
        size={"shortest_edge": 80}, crop_size={"height": 64, "width": 64}, do_center_crop=True
    )


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("make", [vit, clip, dinov2])
def test_transformers_processors(make, width, height):
    processor = make()

    def preprocess(image):
        return processor(images=image, return_tensors="pt")["pixel_values"][0].float()

    if make is vit:
        expected = [(0, width), (0, height)]
    else:
        resized = shorter(width, height, 72 if make is clip else 80)
        expected = placed(width, height, resized, (64, 64))
    compare(preprocess, width, height, expected)


def to_tensor(image):
    return torch.from_numpy(np.asarray(image, np.float32)).permute(2, 0, 1) / 255


@pytest.mark.parametrize("colour", [(0, 0, 0), (124, 116, 104), (255, 255, 255)])
@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (97, 131), (128, 128)])
def test_pad_to_square(width, height, colour):
    def preprocess(image):
        return to_tensor(ImageOps.pad(image, (128, 128), color=colour))

    side = max(width, height)
    expected = [((n - side) / 2, (n + side) / 2) for n in (width, height)]
    compare(preprocess, width, height, expected, slack=1.5)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_mirrors(width, height):
    def mirrored(image):
        return to_tensor(ImageOps.mirror(image.resize((64, 64), Image.Resampling.BILINEAR)))

    compare(mirrored, width, height, [(width, 0), (0, height)])
    box = measure_geometry(mirrored, 100, 100).to_original(0.0, 0.0, 16.0, 32.0)
    assert box.as_tuple() == (75, 0, 100, 50)


def test_a_crop_that_is_not_centred():
    def preprocess(image):
        return to_tensor(image.resize((200, 100)).crop((10, 20, 60, 90)))

    compare(preprocess, 400, 300, [(20, 120), (60, 270)])


def rotated(degrees):
    return lambda image: to_tensor(image.resize((64, 64)).rotate(degrees, Image.BILINEAR))


def warped(image):
    pixels = to_tensor(image.resize((64, 64)))
    return pixels[:, :, (torch.linspace(0, 1, 64) ** 2 * 63).long()]


def squashed(image):
    return to_tensor(image.resize((64, 48)))


def edges(pixels):
    padded = torch.nn.functional.pad(pixels, (1, 1, 1, 1))
    return 4 * pixels - sum(padded.roll(by, (1, 2))[:, 1:-1, 1:-1] for by in ((0, 1), (1, 0)))


CHANNELS = {
    "with its inverse": lambda x: torch.cat([x, 1 - x]),
    "signed pair": lambda x: torch.stack([x[0] - 0.5, 0.5 - x[0]]),
    "with coordinates": lambda x: torch.cat([x, torch.linspace(-1, 1, 64).expand(1, 48, 64)]),
    "with edges": lambda x: torch.cat([x, edges(x)]),
    "opponent colours": lambda x: torch.stack([x[0] - x[1], x[2] - x[1], x.sum(0)]),
    "grey": lambda x: x[:1],
    "one scaled down": lambda x: x * torch.tensor([1, 1e-3, -0.2])[:, None, None],
}


@pytest.mark.parametrize("name", CHANNELS)
def test_each_channel_that_shows_the_image_is_measured(name):
    compare(lambda image: CHANNELS[name](squashed(image)), 200, 150, [(0, 200), (0, 150)])


def halves(image):
    left, right = (squashed(image.crop((x, 0, x + 100, 150))) for x in (0, 100))
    return torch.cat([left, right])


def with_its_mirror_image(image):
    return torch.cat([squashed(image), squashed(image).flip(2)])


def nothing(image):
    return torch.zeros(3, 32, 32)


def normalised_by_itself(image):
    pixels = to_tensor(image.resize((64, 64)))
    return (pixels - pixels.mean()) / (pixels.std() + 1e-6)


@pytest.mark.parametrize(
    "preprocess",
    [
        rotated(90),
        rotated(30),
        rotated(10),
        warped,
        nothing,
        normalised_by_itself,
        halves,
        with_its_mirror_image,
    ],
    ids=["90", "30", "10", "warp", "nothing", "own norm", "halves", "mirror image"],
)
def test_what_has_no_rectangles_is_refused(preprocess):
    with pytest.raises(ModelError) as caught:
        measure_geometry(preprocess, 200, 150)
    assert "-pixel side linearly" in str(caught.value)
    assert "only resizes, crops, pads or mirrors" in str(caught.value)
    assert "--crop none" in str(caught.value)
