"""Inserted artefacts against their equations in plain float64, their texts, and bad input."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import assert_says, colours
from PIL import Image

from semlens.data.artefact import (
    Hue,
    Paste,
    Patch,
    Stripes,
    TextMark,
    WithArtefact,
    insert_drawn,
    load_artefact,
)
from semlens.data.artefact_rendering import PLACES, parse_colour
from semlens.data.image_folder import ImageFolder
from semlens.data.image_sequence import ImageSequence
from semlens.errors import DataError

RANDOM = ["text:© stock", "patch:red", "stripes", "stripes:0,0,0:angle=30"]
GREY = Image.new("RGB", (120, 90), (100, 100, 100))


def picture(height=40, width=60, seed=0):
    return Image.fromarray(colours(height, width, seed))


def pixels(image):
    return np.asarray(image, np.float64)


def changed(image, clean=GREY):
    """Left, top, right, bottom of what differs."""
    rows, columns = np.nonzero((pixels(image) != pixels(clean)).any(2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.fixture
def cutouts(tmp_path):
    """Two cut-outs: a soft disc and a hard square in the lower right corner."""
    folder = tmp_path / "cutouts"
    folder.mkdir()
    y, x = np.mgrid[0:40, 0:60]
    soft = np.clip(255 - 12 * np.hypot(y - 15, x - 20), 0, 255)
    hard = np.where((y >= 30) & (x >= 45), 255, 0)
    for number, alpha in enumerate((soft, hard)):
        rgba = np.dstack([colours(40, 60, 5 + number), alpha.astype(np.uint8)])
        Image.fromarray(rgba).save(folder / f"{number:03d}.png")
    (folder / "sources.json").write_text("{}")
    return folder


def test_hue_is_the_papers_equations() -> None:
    clean = picture()
    for opacity in (0.3, 0.8):
        v = pixels(clean)
        wanted = np.stack(
            [
                (1 - opacity) * v[..., c] + opacity * value
                for c, value in enumerate((231, 128, 151))
            ],
            2,
        )
        assert np.abs(pixels(Hue(opacity=opacity).insert(clean, 3)) - wanted).max() <= 0.5 + 1e-4


def test_paste_is_the_papers_equation(cutouts) -> None:
    clean = picture(seed=1)
    found = set()
    for seed in range(12):
        pasted = pixels(Paste(str(cutouts)).insert(clean, seed))
        for path in sorted(cutouts.glob("*.png")):
            cut = pixels(Image.open(path))
            mask = cut[:, :, 3:] / 255
            if np.abs(pasted - (pixels(clean) * (1 - mask) + cut[:, :, :3] * mask)).max() < 0.51:
                found.add(path.name)
                break
        else:
            raise AssertionError(seed)
    assert found == {"000.png", "001.png"}


def test_a_cut_out_keeps_its_relative_place(cutouts) -> None:
    one = Paste(str(cutouts / "001.png"))
    left, top, right, bottom = changed(
        one.insert(Image.new("RGB", (120, 80)), 0), Image.new("RGB", (120, 80))
    )
    assert (right, bottom) == (120, 80)
    assert abs(left - 90) <= 2 and abs(top - 60) <= 2


def test_a_moved_cut_out_lies_anywhere_at_about_its_size(cutouts) -> None:
    one = Paste(str(cutouts / "001.png"), "random")
    boxes = [changed(one.insert(GREY, seed)) for seed in range(30)]
    sides = {right - left for left, _, right, _ in boxes}
    assert min(sides) >= 0.75 * 2 * 15 - 1 and max(sides) <= 1.25 * 2 * 15 + 1
    assert len({left for left, *_ in boxes}) > 10 and len({top for _, top, *_ in boxes}) > 10


def test_a_replaced_cut_out_is_read_again(cutouts) -> None:
    path = cutouts / "000.png"
    before = Paste(str(path)).insert(GREY, 0)
    Image.new("RGBA", (300, 200), (255, 0, 0, 255)).save(path)
    after = Paste(str(path)).insert(GREY, 0)
    assert before != after
    assert np.unique(pixels(after).reshape(-1, 3), axis=0).tolist() == [[255, 0, 0]]


def test_a_patch_is_a_square_of_its_size_and_colour() -> None:
    image = Patch((10, 200, 30), size=0.2, opacity=1.0).insert(GREY, 4)
    left, top, right, bottom = changed(image)
    assert right - left == bottom - top == 18
    assert (pixels(image)[top:bottom, left:right] == (10, 200, 30)).all()


@pytest.mark.parametrize("place", PLACES)
def test_places(place) -> None:
    left, top, right, bottom = changed(Patch(size=0.2, place=place).insert(GREY, 1))
    assert left >= 3 and top >= 3 and right <= 117 and bottom <= 87  # 3 % of 90 is 3
    if "left" in place:
        assert left == 3
    if "right" in place:
        assert right == 117
    if "top" in place:
        assert top == 3
    if "bottom" in place:
        assert bottom == 87
    if place == "centre":
        assert (left, top) == (51, 36)


def test_text_has_its_height_and_stays_inside() -> None:
    small = changed(TextMark("Mark", size=0.2, place="bottom").insert(GREY, 0))
    large = changed(TextMark("Mark", size=0.4, place="bottom").insert(GREY, 0))
    assert 0.5 * 18 < small[3] - small[1] < 1.3 * 18
    assert large[3] - large[1] > 1.6 * (small[3] - small[1])
    left, _, right, _ = changed(
        TextMark("a very long watermark of many words", size=0.5).insert(GREY, 0)
    )
    assert left >= 0 and right <= 120 and right - left <= 0.95 * 120
    assert changed(TextMark("Mark").insert(Image.new("RGB", (5, 4)), 0), Image.new("RGB", (5, 4)))


def test_text_opacity_and_colours() -> None:
    words = TextMark("HH", size=0.6, colour=(255, 0, 0), outline=None, opacity=0.5).insert(GREY, 0)
    strongest = pixels(words).reshape(-1, 3)[np.argmax(pixels(words)[:, :, 0])]
    assert np.abs(strongest - (0.5 * 100 + 0.5 * np.array([255, 0, 0]))).max() <= 1


def test_stripes_by_hand() -> None:
    image = pixels(Stripes((255, 255, 255), period=0.1, opacity=0.5, angle=0.0).insert(GREY, 2))
    assert (image == image[:, :1]).all()  # horizontal ones
    phase = np.random.default_rng(2).random(2)[0]
    mask = np.clip(2 * np.sin(2 * np.pi * (np.arange(90) / 9 + phase)), 0, 1)
    assert np.abs(image[:, 0, 0] - (100 + 0.5 * mask * 155)).max() <= 0.51


@pytest.mark.parametrize("spec", RANDOM)
def test_a_seed_gives_one_picture_and_another_seed_another(spec) -> None:
    artefact, image = load_artefact(spec), picture()
    before = image.tobytes()
    same = artefact.insert(image, 5)
    assert same == artefact.insert(image, 5)
    assert image.tobytes() == before and same.size == image.size and same.mode == "RGB"
    if spec != "stripes:0,0,0:angle=30":
        assert len({artefact.insert(GREY, seed).tobytes() for seed in range(8)}) > 4


@pytest.mark.parametrize(
    "artefact",
    [
        Hue(), Hue((1, 2, 3), 0.7), TextMark("© stock: a=b"),
        TextMark("a:size=0.5", 0.2, "top", outline=None),
        Patch((0, 0, 0), 0.5, "centre"), Stripes(angle=None), Stripes((9, 9, 9), 0.2, 0.1, 45.0),
    ],
)  # fmt: skip
def test_texts_are_read_back(artefact) -> None:
    assert load_artefact(artefact.spec) == artefact


def test_forms_of_the_command_line(cutouts) -> None:
    assert load_artefact("hue") == Hue()
    assert load_artefact("hue:10,20,30:0.5") == Hue((10, 20, 30), 0.5)
    assert load_artefact("hue:#ff0000") == Hue((255, 0, 0))
    assert load_artefact("text:© stock:place=bottom:size=0.2") == TextMark("© stock", 0.2, "bottom")
    assert load_artefact("patch:red") == Patch((255, 0, 0))
    assert load_artefact("stripes") == Stripes()
    pasted = load_artefact(f"paste:{cutouts}:where=random")
    assert pasted == Paste(str(cutouts), "random") and load_artefact(pasted.spec) == pasted
    assert [a.name for a in (Hue(), TextMark("a"), Patch(), Stripes(), pasted)] == [
        "hue", "text", "patch", "stripes", "paste",
    ]  # fmt: skip
    assert parse_colour(" 1, 2 ,3") == (1, 2, 3)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "Unknown artefact"), ("glow:3", "hue[:COLOUR]"), ("text", "has no words"),
        ("text:", "has no words"), ("paste", "has no path"), ("hue:purplish", "not a valid colour"),
        ("hue:256,0,0", "not a valid colour"), ("hue:red:loud", "opacity is 'loud'"),
        ("hue:red:0", "opacity is '0'"),
        ("hue:red:nan", "opacity is 'nan'"), ("patch:red:size=1.5", "size is '1.5'"),
        ("patch:red:place=attic", "place is 'attic'"), ("stripes:red:period=-1", "period is '-1'"),
        ("stripes:red:angle=inf", "angle is 'inf'"), ("text:日本", "no glyph for 日"),
        ("text:a:font=/nowhere.ttf", "Cannot read"), ("paste:/nowhere", "contains no cut-outs"),
    ],
)  # fmt: skip
def test_bad_texts(spec, says) -> None:
    with pytest.raises(DataError) as error:
        load_artefact(spec)
    assert_says(error.value, says)


def test_bad_cut_outs(cutouts, tmp_path) -> None:
    with pytest.raises(DataError) as error:
        Paste(str(cutouts), "above")
    assert_says(error.value, "where is 'above'", "Expected same or random")
    path = tmp_path / "one.png"
    for made, says in (
        (Image.new("RGB", (4, 4)), "no alpha channel"),
        (Image.new("RGBA", (4, 4)), "fully transparent"),
    ):
        made.save(path)
        with pytest.raises(DataError) as error:
            Paste(str(path)).insert(GREY, 0)
        assert_says(error.value, says)
    path.write_bytes(b"no picture")
    with pytest.raises(DataError) as error:
        Paste(str(path)).insert(GREY, 0)
    assert_says(error.value, "Cannot read")


def test_images_with_an_artefact_keep_ids_and_classes(images) -> None:
    marked = WithArtefact(images, Patch())
    assert list(marked.ids) == list(images.ids) and marked.targets == images.targets
    assert len(marked) == len(images)
    assert all(marked.digest(i) != images.digest(i) for i in range(4))
    assert marked.digest(0) == WithArtefact(images, Patch()).digest(0)
    assert marked.digest(0) != WithArtefact(images, Patch(), seed=1).digest(0)
    assert marked.read(3).size == images.read(3).size
    assert marked.spec.startswith("python:") and "patch:220,30,40" in marked.spec


def test_a_share_of_the_images_is_changed(images) -> None:
    some = WithArtefact(images, Hue(), share=0.25, seed=3)
    differs = [i for i in range(len(images)) if some.read(i) != images.read(i)]
    assert len(differs) == round(0.25 * 41) and set(differs) == some.changed
    same = next(i for i in range(len(images)) if i not in some.changed)
    assert some.digest(same) == images.digest(same)
    assert set(WithArtefact(images, Hue(), share=0.25, seed=4).changed) != some.changed


def test_one_of_several_artefacts_is_drawn(images) -> None:
    kinds = (Hue(opacity=1.0), Patch(size=0.5, opacity=1.0))
    marked = WithArtefact(ImageSequence([GREY] * 40), kinds)
    flat = [len(np.unique(pixels(marked.read(i)).reshape(-1, 3), axis=0)) == 1 for i in range(40)]
    assert 8 < sum(flat) < 32
    assert insert_drawn(GREY, kinds, 0, 7) == marked.read(7)


def test_texts_are_taken_wherever_artefacts_are(images) -> None:
    assert WithArtefact(images, "hue:opacity=0.5").artefacts == (Hue(opacity=0.5),)
    assert WithArtefact(images, ["hue", Patch()]).artefacts == (Hue(), Patch())
    with pytest.raises(DataError, match="opacity is '2.0'"):
        Hue(opacity=2.0)


@pytest.mark.parametrize(("kinds", "share"), [((), 1.0), ((Hue(),), 1.5), ((Hue(),), -0.1)])
def test_bad_shares(images: ImageFolder, kinds, share) -> None:
    with pytest.raises(DataError) as error:
        WithArtefact(images, kinds, share=share)
    assert_says(error.value, f"share={share}")
