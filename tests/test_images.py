"""Every kind of image file and folder, to upright RGB with stable ids."""

from __future__ import annotations

import os
import struct
import threading
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import assert_says, colours, encoded
from PIL import Image

from semlens.data.class_mapping import UNLABELLED, UnmappedWarning, map_targets
from semlens.data.image_folder import ImageFolder
from semlens.data.images import decode, upright_rgb
from semlens.data.prefetch import prefetch
from semlens.errors import DataError, ImageError


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    upright = colours()
    stored = {  # the place of the stored array's first row and column, EXIF 2.32, 4.6.5
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif)
        np.testing.assert_array_equal(np.asarray(decode(data, "x")), upright)


@pytest.mark.filterwarnings("ignore:::PIL")
def test_a_damaged_exif_block_leaves_the_image_readable():
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + b"\xff" * 40
    assert decode(encoded(Image.fromarray(colours()), "JPEG", exif=exif), "x").size == (12, 8)


def test_alpha_over_white():
    colour = (200, 100, 0)
    for alpha in (0, 51, 255):
        share = alpha / 255
        image = Image.new("RGBA", (3, 2), (*colour, alpha))
        expected = [round(c * share + 255 * (1 - share)) for c in colour]
        pixel = np.asarray(decode(encoded(image, "PNG"), "x")).astype(int)
        assert np.abs(pixel - expected).max() <= 1
        grey = Image.new("LA", (3, 2), (80, alpha))
        pixel = np.asarray(decode(encoded(grey, "PNG"), "x")).astype(int)
        assert np.abs(pixel - (80 * share + 255 * (1 - share))).max() <= 1


def test_transparent_palette_and_transparent_colour():
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8)).convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0])
    for kind in ("PNG", "GIF"):
        got = np.asarray(decode(encoded(image, kind, transparency=0), "x"))
        assert got[0, 0].tolist() == [255, 255, 255], kind
        assert got[0, 1].tolist() == [200, 0, 0], kind
    keyed = encoded(Image.fromarray(np.full((2, 2, 3), 7, np.uint8)), "PNG", transparency=(7, 7, 7))
    assert (np.asarray(decode(keyed, "x")) == 255).all()


def test_other_modes_and_formats():
    red = np.asarray(decode(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), "x"))
    assert (red == [255, 0, 0]).all()
    jpeg = np.asarray(decode(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), "x"))
    assert np.abs(jpeg.astype(int) - [255, 0, 0]).max() <= 8
    grey = decode(encoded(Image.fromarray(colours()[:, :, 0]), "PNG"), "x")
    np.testing.assert_array_equal(np.asarray(grey), np.repeat(colours()[:, :, :1], 3, 2))
    bits = decode(encoded(Image.new("1", (4, 4), 1), "PNG"), "x")
    assert (np.asarray(bits) == 255).all()
    smooth = Image.fromarray(np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8))
    progressive = decode(encoded(smooth, "JPEG", progressive=True, quality=95), "x")
    assert progressive.mode == "RGB"
    assert np.abs(np.asarray(progressive).astype(int) - np.asarray(smooth)).mean() < 3
    frames = [Image.new("RGB", (5, 5), c) for c in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(moving, "x").getpixel((0, 0)) == (255, 0, 0)
    for kind in ("WEBP", "BMP", "PPM"):
        same = decode(encoded(Image.fromarray(colours()), kind, lossless=True), "x")
        np.testing.assert_array_equal(np.asarray(same), colours())


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_so_that_white_stays_white(kind):
    values = np.array([[0, 128, 129, 257, 30000, 32768, 65407, 65535]], np.uint16)
    got = np.asarray(decode(encoded(Image.fromarray(values), kind), "x"))[:, :, 1]
    np.testing.assert_array_equal(got, np.rint(values / 257))
    assert got[0, -1] == 255


def test_pixels_without_a_known_white_are_refused():
    for image, kind in (
        (Image.fromarray(np.ones((3, 3), np.float32)), "floating-point"),
        (Image.fromarray(np.full((3, 3), 10**6, np.int32)), "32-bit"),
    ):
        with pytest.raises(ImageError) as caught:
            decode(encoded(image, "TIFF"), "map.tif")
        assert_says(caught.value, f"'map.tif' holds {kind}", "have a defined white", "Convert or")
    with pytest.raises(ImageError, match="Cannot decode"):
        upright_rgb(Image.new("La", (3, 3)), "premultiplied")


def grey_tiff(pixels: bytes, bits: int, photometric: int, sample_format: int = 1) -> bytes:
    """Return a TIFF of 8 by 2 pixels in one strip (TIFF 6.0, section 3)."""
    tags = [
        (256, 3, 8), (257, 3, 2), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
        (277, 3, 1), (278, 3, 2), (279, 4, len(pixels)), (339, 3, sample_format),
    ]  # fmt: skip
    directory = struct.pack("<H", len(tags)) + b"".join(
        struct.pack("<HHII" if kind == 4 else "<HHIHxx", tag, kind, 1, value)
        for tag, kind, value in tags
    )
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + bytes(4)


def packed(values: np.ndarray, bits: int) -> bytes:
    """Return whole rows of samples of some bits, the most significant first."""
    rows = ("".join(f"{v:0{bits}b}" for v in row) for row in values.tolist())
    return b"".join(int(row, 2).to_bytes(len(row) // 8) for row in rows)


GREY = np.array([[0, 1, 2, 7, 8, 11, 14, 15], [15, 9, 6, 5, 4, 3, 2, 0]])
"""Fifteenths of white."""


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [4, 8, 12, 16])
def test_grey_of_any_depth_whichever_end_is_white(bits, photometric):
    values = GREY * ((2**bits - 1) // 15)
    pixels = values.astype("<u2").tobytes() if bits == 16 else packed(values, bits)
    right = 17 * (GREY if photometric else 15 - GREY)
    if bits == 12 and photometric == 0:  # a kind that Pillow does not open
        with pytest.raises(ImageError, match="cannot identify"):
            decode(grey_tiff(pixels, bits, photometric), "x")
        return
    found = np.asarray(decode(grey_tiff(pixels, bits, photometric), "x"))
    np.testing.assert_array_equal(found, np.repeat(right[..., None], 3, 2))


@pytest.mark.parametrize(("bits", "sample_format"), [(32, 1), (32, 2), (16, 2), (32, 3)])
def test_grey_whose_white_is_unknown_is_refused(bits, sample_format):
    kind = {1: "<u4", 2: f"<i{bits // 8}", 3: "<f4"}[sample_format]
    with pytest.raises(ImageError, match="which have a defined white"):
        decode(grey_tiff((GREY * 3).astype(kind).tobytes(), bits, 1, sample_format), "x")


def sixteen_bit_png(values: np.ndarray, transparent: list[int]) -> bytes:
    """Return a PNG [h w] or [h w 3] of 16 bits with a transparent colour (PNG, 11.3.2.1)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        sealed = name + body
        return struct.pack(">I", len(body)) + sealed + struct.pack(">I", zlib.crc32(sealed))

    size = struct.pack(">IIBBBBB", *values.shape[1::-1], 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size)
        + chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.mark.parametrize("level", [0, 4369, 30583, 65535])
@pytest.mark.parametrize("colour", [False, True])
def test_a_transparent_colour_of_16_bits_is_white(level, colour):
    values = GREY * 4369
    right = np.where(values == level, 255, 17 * GREY)
    pixels = np.repeat(values[..., None], 3, 2) if colour else values
    found = np.asarray(decode(sixteen_bit_png(pixels, [level] * (3 if colour else 1)), "x"))
    np.testing.assert_array_equal(found, np.repeat(right[..., None], 3, 2))


@pytest.mark.parametrize("key", [0, (9, 9, 9)])
def test_what_an_image_from_python_says_of_transparency_breaks_nothing(key):
    image = Image.new("RGB", (3, 2), (10, 20, 30))
    image.info["transparency"] = key
    assert np.asarray(upright_rgb(image)).tolist() == [[[10, 20, 30]] * 3] * 2


def test_truncated_empty_and_foreign_files():
    png = encoded(Image.fromarray(colours(40, 40)), "PNG")
    jpeg = encoded(Image.fromarray(colours(64, 64)), "JPEG")
    for data in (b"", b"no image at all", png[: len(png) // 2], jpeg[: len(jpeg) // 2], png[:20]):
        with pytest.raises(ImageError) as caught:
            decode(data, "a/b.png")
        assert_says(caught.value, "Cannot decode 'a/b.png'", "intact image file", "a build skips")


@pytest.mark.filterwarnings("ignore:::PIL")
def test_damage_of_any_kind_gives_an_image_or_an_image_error():
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture, refused = Image.fromarray(colours(24, 24)), 0
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "JPEG2000"):
        whole = encoded(picture, kind, **({"exif": exif} if kind in ("PNG", "JPEG") else {}))
        for _ in range(60):
            data = bytearray(whole)
            for place in random.integers(0, min(len(data), 200), 4):
                data[place] = random.integers(0, 256)
            try:
                assert decode(bytes(data), "x").mode == "RGB"
            except ImageError:
                refused += 1
    assert refused > 50


def save(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours(seed=seed)).save(path)


def test_a_folder_is_read_in_the_order_of_its_posix_paths(tmp_path):
    for name in ("b/2.png", "b/10.png", "a/z/1.JPG", "a.b/1.png", ".hidden/1.png", "b/.2.png"):
        save(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    images = ImageFolder(tmp_path)
    assert images.ids == ["a.b/1.png", "a/z/1.JPG", "b/10.png", "b/2.png"]
    assert images.targets == ["a.b", "a", "b", "b"]
    assert images.spec == str(tmp_path.resolve())
    np.testing.assert_array_equal(np.asarray(images.read(3)), colours())
    assert images.digest(2) == images.digest(3) != images.digest(1)


def test_a_stray_file_beside_the_class_folders_has_no_class(tmp_path):
    for name in ("cat/1.png", "dog/1.png", "preview.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    with pytest.warns(UnmappedWarning, match=r"1 of 3 images .*\(preview.png\)"):
        found = ImageFolder(tmp_path)
    assert found.targets == ["cat", "dog", UNLABELLED]
    mapped = map_targets(found.targets, 3, ["cat", "dog"], None)
    assert mapped.logits == (0, 1, None)
    assert not mapped.notice
    for folder in ("cat", "dog"):
        (tmp_path / folder / "1.png").unlink()
    assert ImageFolder(tmp_path).targets is None


def test_links_are_followed_but_not_in_circles(tmp_path):
    save(tmp_path / "data" / "cat" / "1.png")
    save(tmp_path / "elsewhere" / "2.png")
    (tmp_path / "data" / "cat" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "wolf").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "cat" / "gone.png").symlink_to(tmp_path / "nothing.png")
    images = ImageFolder(tmp_path / "data")
    assert images.ids == ["cat/1.png", "cat/gone.png", "dog/2.png", "wolf/2.png"]
    with pytest.raises(ImageError, match="Cannot read 'cat/gone.png' .No such file") as caught:
        images.read(1)
    assert_says(caught.value, "readable file", "permission to read")


def test_empty_and_missing_folders_and_odd_names(tmp_path):
    with pytest.raises(DataError) as caught:
        ImageFolder(tmp_path)
    assert_says(caught.value, "contains no images", ".jpeg", "Check the path and the file endings")
    with pytest.raises(DataError) as caught:
        ImageFolder(tmp_path / "nowhere")
    assert_says(caught.value, "nowhere' is not a folder", "subfolder per class", "datasets/ID")
    save(tmp_path / "é" / "ü.png")
    assert ImageFolder(tmp_path).ids == ["é/ü.png"]
    (tmp_path / "é").rename(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    with pytest.raises(DataError) as caught:
        ImageFolder(tmp_path)
    assert_says(caught.value, r"\xff/", "not valid UTF-8", "Rename")


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_prefetch_keeps_order_passes_errors_on_and_looks_ahead_so_far_only(workers):
    assert list(prefetch(lambda x: x * 2, range(100), workers, ahead=3)) == list(range(0, 200, 2))
    started, seen = [], []

    def work(x):
        started.append(x)
        if x == 5:
            raise ImageError("5", "is", "bad")
        return x

    with pytest.raises(ImageError, match="5 is bad"):
        for x in prefetch(work, range(10**6), workers, ahead=3):
            seen.append(x)
            assert len(started) <= x + 5
    assert seen == [0, 1, 2, 3, 4]
    assert max(started) <= 9


def test_prefetch_ends_its_threads_when_the_reader_stops():
    stream = prefetch(lambda x: x, range(1000), 3)
    assert next(stream) == 0
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("semlens")]


@pytest.mark.parametrize("suffix", ["jp2", "j2k"])
def test_a_truncated_jpeg_2000_is_refused_wherever_it_ends(suffix):
    colours = np.random.default_rng(0).integers(0, 256, (24, 31, 3), dtype=np.uint8)
    stream = BytesIO()
    Image.fromarray(colours).save(stream, "JPEG2000", no_jp2=suffix == "j2k")
    whole = stream.getvalue()
    assert np.array_equal(np.asarray(decode(whole, "a")), colours)
    for end in range(1, len(whole), 7):
        with pytest.raises(ImageError):
            decode(whole[:end], "a")
    if suffix == "jp2":
        note = b"\0\0\0\x0cxml <a/>"  # boxes may follow the code stream
        assert decode(whole + note, "a").size == (31, 24)
