"""Arrays in files: numbers reach the model as they are, and are seen as it is declared."""

import io
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.array_files import ArrayFolder
from semlens.data.images import content_digest
from semlens.errors import DataError, ImageError
from semlens.types import Component

BANDS, SIDE, BLOB = 6, 32, 6
MODEL = """
import torch
from torch import nn
import semlens as sl

class Bands(nn.Module):  # channel k is the mean of band k around a position
    def __init__(self):
        super().__init__()
        self.read = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.read.weight.data = torch.eye(6)[:, :, None, None].expand(6, 6, 3, 3) / 9
        self.act, self.head = nn.ReLU(), nn.Linear(6, 6, bias=False)
        self.head.weight.data = torch.eye(6)

    def forward(self, x):
        return self.head(self.act(self.read(x)).amax((2, 3)))

def make():
    names = [f"band{k}" for k in range(6)]
    return Bands().eval(), sl.ArrayInput((6, 32, 32), (0, 3000), lambda x: x / 3000), names
"""
FUNCTION = """
import numpy as np

def pseudo(values):
    grey = (values.max(0) / values.max() * 255).astype(np.uint8)
    return np.stack([grey, grey, 255 - grey], -1)

def wrong(values):
    return np.zeros((2, 2, 3), np.uint8)
"""


@pytest.fixture(scope="module")
def fields(tmp_path_factory) -> tuple[Path, dict[str, tuple[int, int]]]:
    """Return a folder of arrays with a blob in one band, and the blob's corners."""
    root, rng = tmp_path_factory.mktemp("fields"), np.random.default_rng(0)
    (root / "model.py").write_text(MODEL)
    (root / "draw.py").write_text(FUNCTION)
    corners = {}
    for sample in range(24):
        band = sample % BANDS
        values = rng.integers(0, 300, (BANDS, SIDE, SIDE))
        top, left = (int(x) for x in rng.integers(0, SIDE - BLOB, 2))
        values[band, top : top + BLOB, left : left + BLOB] += 2000 + 20 * sample
        name = f"band{band}/{sample:02d}.npy"
        (root / "data" / f"band{band}").mkdir(parents=True, exist_ok=True)
        np.save(root / "data" / name, values.astype(np.uint16))
        corners[name] = (top, left)
    return root, corners


def test_a_network_of_six_bands(fields, tmp_path):
    root, corners = fields
    data = f"arrays:{root}/data@bands:3,2,1@0,3000"
    ended = CliRunner().invoke(
        app,
        ["build", f"{tmp_path}/db", "--model", f"{root}/model.py:make", "--data", data, "--layers",
         "act", "--embedder", "self:read", "--examples", "3", "--relevance", "--readout", "max"],
    )  # fmt: skip
    assert ended.exit_code == 0, ended.output
    db = sl.open(tmp_path / "db", model=f"{root}/model.py:make", images=data)
    assert db.manifest.data.spec == data
    for band in range(BANDS):
        examples = db.examples_of(db.row(Component("act", band)))
        assert len(examples) == 3
        for example in examples:
            name = db.sample(example.sample).path
            top, left = corners[name]
            assert name.startswith(f"band{band}/")
            box = example.box
            assert abs((box.left + box.right) / 2 - left - BLOB / 2) <= 4
            assert abs((box.top + box.bottom) / 2 - top - BLOB / 2) <= 4
        relevant = db.class_relevance(f"band{band}", concepts=None).to_pandas()
        assert relevant.loc[relevant["mean"].idxmax(), "component"] == f"act:{band}"
        # the numbers of the file in float64, averaged over 3 x 3 positions
        largest = 0.0
        for name in corners:
            values = np.pad(np.load(root / "data" / name)[band].astype(np.float64) / 3000, 1)
            windows = np.lib.stride_tricks.sliding_window_view(values, (3, 3))
            largest = max(largest, float(windows.mean((2, 3)).max()))
        stored = db.components.query("layer == 'act' and index == @band")["maximum"].item()
        assert stored == pytest.approx(largest, rel=1e-5)
    picture = np.asarray(db.images.read(0))
    values = np.load(root / "data" / db.sample(0).path)
    assert np.array_equal(picture[:, :, 0], np.rint(values[3] / 3000 * 255))  # red is band 3
    file = root / "data" / "band4" / "04.npy"
    assert db.explain(file, concepts=None).target.name == "band4"
    assert db.search(images=[file], top=1).to_pandas()["component"].item() == "act:4"
    bare = sl.open(tmp_path / "db")  # what follows from the manifest alone
    assert content_digest(bare.images.read(0)) == bare.sample(0).sha256


def test_other_renderings_are_other_data(fields):
    root, _ = fields
    whole = sl.load_images(f"arrays:{root}/data@bands:3,2,1@0,3000")
    grey = sl.load_images(f"arrays:{root}/data@bands:3@0,3000")
    assert whole.digest(0) != grey.digest(0)
    assert whole.targets == [f"band{k // 4}" for k in range(24)]
    drawn = sl.load_images(f"arrays:{root}/data@{root}/draw.py:pseudo")
    assert np.asarray(drawn.read(0))[:, :, 2].min() == 0
    with pytest.raises(ImageError, match=r"makes uint8\[2, 2, 3\]"):
        sl.load_images(f"arrays:{root}/data@{root}/draw.py:wrong").read(0)
    with pytest.raises(DataError, match="never runs code"):
        ArrayFolder(f"arrays:{root}/data@{root}/draw.py:pseudo", run_files=False)


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("", "no declared bands"),
        ("bands:1,2,9@0,1", "Name bands from 0 to 5"),
        ("window", "the window of its file, which has none"),
    ],
)
def test_renderings_that_do_not_fit_are_refused(fields, how, text):
    root, _ = fields
    images = sl.load_images(f"arrays:{root}/data" + (f"@{how}" if how else ""))
    with pytest.raises(ImageError) as refused:
        images.read(0)
    assert text in str(refused.value)


@pytest.mark.parametrize(
    "how", ["bands:1,2", "window:1", "window:5,0", "bands:0@3,2", "plot", "colours", "no.py:f"]
)
def test_renderings_that_cannot_be_read_are_refused(fields, how):
    root, _ = fields
    with pytest.raises(DataError):
        sl.load_images(f"arrays:{root}/data@{how}")


def test_sixteen_bits_of_a_file_reach_the_model(tmp_path):
    numbers = np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20
    Image.fromarray(numbers).save(tmp_path / "a.png")
    Image.fromarray(numbers).save(tmp_path / "b.tif")
    Image.fromarray(numbers.astype(np.float32)).save(tmp_path / "c.tif")
    Image.fromarray((numbers % 256).astype(np.uint8)).save(tmp_path / "d.png")
    images = sl.load_images(f"arrays:{tmp_path}@window:30000,40000")
    model = sl.SubjectModel(torch.nn.Identity(), sl.ArrayInput((1, 48, 64), (0, 65535)))
    for sample in (0, 1, 2):
        picture = images.read(sample)
        assert np.array_equal(model.prepare(picture).numpy()[0], numbers.astype(np.float32))
        # level 30000, width 40000: black up to 10000, white from 50000
        expected = np.rint(255 * ((numbers.astype(np.float64) - 10000) / 40000).clip(0, 1))
        assert np.array_equal(np.asarray(picture)[:, :, 1], expected)
    assert model.geometry()(64, 48).to_original(8.0, 4.0, 20.0, 10.0).as_tuple() == (8, 4, 20, 10)
    whole = sl.load_images(f"arrays:{tmp_path}")
    assert np.asarray(whole.read(0)).max() == round(numbers.max() / 65535 * 255)  # 16 bits
    assert np.array_equal(np.asarray(whole.read(3))[:, :, 0], numbers % 256)  # 8 bits
    with pytest.raises(ImageError, match="no declared range"):
        whole.read(2)


def test_tiff_of_many_bands(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    numbers = np.random.default_rng(0).integers(0, 4096, (6, 20, 24)).astype(np.uint16)
    tifffile.imwrite(tmp_path / "planes.tif", numbers, photometric="minisblack")
    tifffile.imwrite(
        tmp_path / "pixels.tif", np.moveaxis(numbers, 0, -1), photometric="minisblack",
        planarconfig="contig",
    )  # fmt: skip
    tifffile.imwrite(tmp_path / "colour.tif", np.moveaxis(numbers[:3], 0, -1), photometric="rgb")
    tifffile.imwrite(tmp_path / "white.tif", numbers[0], photometric="miniswhite")
    images = sl.load_images(f"arrays:{tmp_path}@bands:0@0,4095")
    for name, expected in (
        ("planes", numbers), ("pixels", numbers), ("colour", numbers[:3]), ("white", numbers[:1])
    ):  # fmt: skip
        values = images.read(images.ids.index(f"{name}.tif")).values
        assert values.dtype == np.uint16
        assert np.array_equal(values, expected)


def test_a_png_of_sixteen_bits_per_colour_is_refused(tmp_path):
    raw = b"".join(b"\0" + bytes(range(6)) * 2 for _ in range(2))  # 2 x 2, filter 0

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
    (tmp_path / "deep.png").write_bytes(data)
    assert Image.open(tmp_path / "deep.png").mode == "RGB"  # Pillow says nothing
    with pytest.raises(ImageError, match="16 bits per colour"):
        sl.load_images(f"arrays:{tmp_path}").read(0)


# -- DICOM ------------------------------------------------------------------------------------


def write_slice(path: Path, pixels: np.ndarray, number: int, **more: object) -> None:
    """Write a CT slice as pydicom does."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = Dataset()
    one.file_meta = meta
    one.SOPClassUID, one.SOPInstanceUID = CTImageStorage, f"1.2.3.{number}"
    one.SeriesInstanceUID = "1.2.3"
    one.Rows, one.Columns = pixels.shape
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 12, 11, 0
    one.RescaleSlope, one.RescaleIntercept = "2", "-1024"
    one.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    one.ImagePositionPatient = ["0", "0", str(-5 * number)]
    one.InstanceNumber = number
    for name, value in more.items():
        setattr(one, name, value)
    one.PixelData = pixels.astype(np.uint16).tobytes()
    one.save_as(path, enforce_file_format=True)


@pytest.fixture
def series(tmp_path) -> tuple[Path, np.ndarray]:
    """Return a folder with a series of slices in a mixed order, and their stored numbers."""
    pytest.importorskip("pydicom")
    pixels = np.random.default_rng(0).integers(0, 4096, (5, 12, 10))
    (tmp_path / "s").mkdir()
    for number, name in enumerate("cadbe"):
        write_slice(
            tmp_path / "s" / f"{name}.dcm", pixels[number], number, WindowCenter="40",
            WindowWidth="400",
        )  # fmt: skip
    return tmp_path, pixels


def test_dicom_values_are_those_after_the_modality_lut(series):
    root, pixels = series
    images = sl.load_images(f"arrays:{root}")
    assert [name[-5] for name in images.ids] == list("abcde")
    picture = images.read(images.ids.index("s/c.dcm"))
    units = 2.0 * pixels[0] - 1024  # Hounsfield units
    assert np.array_equal(picture.values[0], units)
    # PS3.3 C.11.2.1.2.1: the linear function of a window
    shares = ((units - (40 - 0.5)) / (400 - 1) + 0.5).clip(0, 1)
    assert np.abs(np.asarray(picture)[:, :, 0] - 255 * shares).max() <= 0.51


def test_slices_of_a_series_are_a_volume_in_their_order(series):
    root, pixels = series
    images = sl.load_images(f"volumes:{root}@window:40,400")
    # along the normal, positions descend with the number
    assert images.ids == ["s/e.dcm"]
    assert np.array_equal(images.read(0).values[0], 2.0 * pixels[::-1] - 1024)
    assert images.read(0).size == (10, 60)
    write_slice(root / "s" / "f.dcm", np.zeros((3, 3)), 9)
    with pytest.raises(ImageError, match=r"\[1, 1, 12, 10\], \[1, 1, 3, 3\]"):
        sl.load_images(f"volumes:{root}").read(0)


def test_inverted_dicom_and_files_of_others(series, tmp_path):
    from pydicom import dcmread
    from pydicom.data import get_testdata_file

    root, pixels = series
    write_slice(
        root / "x.dcm", pixels[0], 7, PhotometricInterpretation="MONOCHROME1", WindowCenter="1000",
        WindowWidth="2000",
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # slices beside a class folder
        images = sl.load_images(f"arrays:{root}")
    units = 2.0 * pixels[0] - 1024
    shares = 1 - ((units - 999.5) / 1999 + 0.5).clip(0, 1)
    picture = images.read(images.ids.index("x.dcm"))
    assert np.abs(np.asarray(picture)[:, :, 0] - 255 * shares).max() <= 0.51
    other = tmp_path / "others"
    other.mkdir()
    for name in ("CT_small.dcm", "MR_small.dcm", "examples_rgb_color.dcm"):
        (other / name).write_bytes(Path(get_testdata_file(name)).read_bytes())
    (other / "broken.dcm").write_bytes(b"no image")
    images = sl.load_images(f"arrays:{other}@window:0,2000")
    scan = dcmread(get_testdata_file("CT_small.dcm"))
    values = images.read(images.ids.index("CT_small.dcm")).values
    assert np.array_equal(values[0], scan.pixel_array.astype(np.float64) - 1024)
    colour = sl.load_images(f"arrays:{other}")
    rgb = dcmread(get_testdata_file("examples_rgb_color.dcm")).pixel_array
    assert np.array_equal(np.asarray(colour.read(colour.ids.index("examples_rgb_color.dcm"))), rgb)
    (other / "palette.dcm").write_bytes(
        Path(get_testdata_file("examples_palette.dcm")).read_bytes()
    )
    palette = sl.load_images(f"arrays:{other}@window:0,2000")
    with pytest.raises(ImageError, match="palette"):
        palette.read(palette.ids.index("palette.dcm"))
    with pytest.raises(ImageError, match=r"Cannot read 'broken.dcm'"):
        images.read(images.ids.index("broken.dcm"))


def test_dicom_names_the_package_that_it_needs(series, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(DataError, match=r"pip install 'semlens\[dicom\]'"):
        sl.load_images(f"arrays:{series[0]}").read(0)


def test_unreadable_arrays_are_refused_with_their_form(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4, 5)))
    np.save(tmp_path / "b.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "c.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "d.npy", np.zeros((3, 4), complex))
    images = sl.load_images(f"arrays:{tmp_path}@bands:0@0,1")
    for sample in range(4):
        with pytest.raises(ImageError):
            images.read(sample)
    with pytest.raises(ImageError, match=r"signals: for one axis"):
        images.read(0)
    with pytest.raises(DataError, match="contains no arrays"):
        (tmp_path / "empty").mkdir()
        sl.load_images(f"signals:{tmp_path}/empty")
    with pytest.raises(DataError, match="not a folder"):
        sl.load_images("volumes:no/such")
    assert isinstance(sl.ArraySequence([np.zeros((3, 4), np.uint8)], axes=2).read(0), Image.Image)
    buffer = io.BytesIO()
    sl.ArraySequence([np.zeros((3, 4), np.uint8)], axes=2).read(0).save(buffer, "PNG")
