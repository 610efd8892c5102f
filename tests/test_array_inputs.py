"""Models of signals and volumes: planted filters are found where they respond."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

import semlens as sl
from semlens.data.array_picture import ArrayPicture, in_slice
from semlens.embedders.vector_file import VECTOR
from semlens.errors import DataError, ModelError
from semlens.models.subject import weights_digest
from semlens.relevance.heatmap_boxes import kernel_size, strongest_slices, upsample_and_blur
from semlens.types import Component

LENGTH, BURST, FREQUENCIES = 128, 40, (4, 8, 16, 32)
NAMES = [f"{f} Hz" for f in FREQUENCIES]
SLICES, HEIGHT, WIDTH, SIDE = 6, 20, 16, 4


class BandNet(nn.Module):
    """Two filters per frequency, sine and cosine; the strongest response is the class's logit."""

    def __init__(self) -> None:
        super().__init__()
        self.bands, self.act = nn.Conv1d(1, 8, 33, padding=16, bias=False), nn.ReLU()
        self.strongest, self.head = nn.AdaptiveMaxPool1d(1), nn.Linear(8, 4, bias=False)
        time = 2 * torch.pi * torch.arange(33) / LENGTH
        waves = torch.stack([f(q * time) for q in FREQUENCIES for f in (torch.sin, torch.cos)])
        self.bands.weight.data = (waves / 16)[:, None]
        self.head.weight.data = torch.eye(4).repeat_interleave(2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take [b 1 t]."""
        assert x.ndim == 3
        return self.head(self.strongest(self.act(self.bands(x))).flatten(1))


def signals() -> tuple[list[tuple[np.ndarray, int]], list[int]]:
    """Return noise with a burst of one frequency, its class, and where the burst starts."""
    rng = np.random.default_rng(0)
    items, starts = [], []
    for sample in range(32):
        own, start = sample % 4, int(rng.integers(0, LENGTH - BURST))
        values = 0.05 * rng.standard_normal(LENGTH)
        values[start : start + BURST] += np.sin(
            2 * np.pi * FREQUENCIES[own] * np.arange(BURST) / LENGTH
        )
        items.append((values.astype(np.float32), own))
        starts.append(start)
    return items, starts


@pytest.fixture(scope="module")
def band_model():
    """Return the model of signals."""
    given = sl.ArrayInput((1, LENGTH), (-1.5, 1.5))
    return sl.SubjectModel(BandNet().eval(), given, classes=NAMES)


@pytest.fixture(scope="module")
def bands(band_model, tmp_path_factory):
    """Return a database of signals, in the space of the model itself."""
    images = sl.ArraySequence(signals()[0], axes=1, classes=NAMES)
    embedder = sl.load_embedder("self:strongest", model=band_model)
    path = tmp_path_factory.mktemp("signals") / "db"
    return sl.build(
        path, band_model, images, embedder, ["bands", "act"], examples=4, readout="max",
        relevance=True,
    )  # fmt: skip


def test_examples_of_a_filter_are_windows_with_its_frequency(bands):
    items, starts = signals()
    assert {(layer.form, layer.height, layer.width) for layer in bands.manifest.layers} == {
        ("sequence", 1, LENGTH)
    }
    step = bands.images.read(0).step
    assert step == 2  # 128 values are drawn 256 pixels wide
    for channel in range(8):
        for example in bands.examples_of(bands.row(Component("act", channel))):
            assert items[example.sample][1] == channel // 2
            left, right = example.box.left / step, example.box.right / step
            start = starts[example.sample]
            middle = (left + right) / 2
            assert start - 8 <= middle <= start + BURST + 8
            assert (example.box.top, example.box.bottom) == (0, 64)
            assert right - left < LENGTH


def test_readouts_of_signals_are_those_of_the_model(bands):
    # an independent pass in float64 over the signals as the model gets them
    items, _ = signals()
    batch = torch.from_numpy(np.stack([values for values, _ in items]))[:, None].double()
    with torch.no_grad():
        value = BandNet().double().bands(batch).relu().amax(2)
    table = bands.components.query("layer == 'act'").set_index("index")
    for channel in range(8):
        assert table.loc[channel, "maximum"] == pytest.approx(
            float(value[:, channel].max()), rel=1e-5
        )


def test_questions_about_signals_find_the_planted_filters(bands, tmp_path):
    items, starts = signals()
    relevant = bands.class_relevance("16 Hz", layers=["act"], concepts=None).to_pandas()
    assert set(relevant.nlargest(2, "mean")["component"]) == {"act:4", "act:5"}
    for image in (items[2][0], torch.from_numpy(items[2][0])):  # arrays, as the data set has them
        explained = bands.explain(image, concepts=None)
        assert explained.target.name == "16 Hz"
        own = [str(item.component) for item in explained.layers["act"][:2]]
        assert set(own) == {"act:4", "act:5"}
        box = explained.layers["act"][0].box
        assert starts[2] - 20 <= (box.left + box.right) / 4 <= starts[2] + BURST + 20
    np.save(tmp_path / "one.npy", items[2][0])
    found = bands.search(images=[items[2][0]], layers=["act"], top=2).to_pandas()
    assert set(found["component"]) == {"act:4", "act:5"}
    assert bands.card("act:4").component == Component("act", 4)
    assert bands.explain(items[2][0], concepts=None).plot().size[0] > 500
    state = bands.prune(["act:4", "act:5"]).state
    assert set(state) == set(BandNet().state_dict())  # by the names that the user's model has
    assert not state["bands.weight"][4:6].any()
    assert state["bands.weight"][:4].any()


def test_an_embedder_of_signals_gets_the_numbers_of_the_window(band_model, tmp_path):
    class Spectrum(sl.Embedder):
        spec, fingerprint, dim, has_text = "python:spectrum", "spectrum", 33, False

        def preprocess(self, image: Image.Image) -> torch.Tensor:
            assert isinstance(image, ArrayPicture)
            values = torch.from_numpy(image.values[0].astype(np.float32))
            return torch.fft.rfft(values, n=LENGTH).abs()[: 2 * self.dim : 2]

        def _images(self, batch: torch.Tensor) -> torch.Tensor:
            return batch

    images = sl.ArraySequence(signals()[0], axes=1, classes=NAMES)
    db = sl.build(tmp_path / "db", band_model, images, Spectrum(), ["act"], examples=4)
    for channel in range(8):
        (vector,) = db.concept_vectors([db.row(Component("act", channel))])
        assert 2 * int(np.argmax(vector)) == FREQUENCIES[channel // 2]


def test_vectors_of_signals_come_from_a_file(band_model, tmp_path):
    images = sl.ArraySequence(signals()[0], axes=1, classes=NAMES)
    rows = pd.DataFrame({"image": images.ids, VECTOR: [[1.0, i % 4] for i in range(32)]})
    rows.to_parquet(tmp_path / "v.parquet")
    db = sl.build(
        tmp_path / "db", band_model, images, f"vectors/{tmp_path / 'v.parquet'}", ["act"],
        examples=2, crop="none",
    )  # fmt: skip
    (vector,) = db.concept_vectors([db.row(Component("act", 6))])
    assert vector[1] / vector[0] == pytest.approx(3, rel=1e-2)


class BlobNet(nn.Module):
    """Reads whether a block is bright or dark."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv3d(1, 2, 3, padding=1, bias=False), nn.ReLU()
        self.pool, self.head = nn.MaxPool3d(2), nn.Linear(2, 2, bias=False)
        self.conv.weight.data = torch.ones(2, 1, 3, 3, 3) / 27
        self.conv.weight.data[1] *= -1
        self.head.weight.data = torch.eye(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take [b 1 d h w]."""
        return self.head(self.pool(self.act(self.conv(x))).amax((2, 3, 4)))


def volumes() -> tuple[list[tuple[np.ndarray, int]], list[tuple[int, int, int]]]:
    """Return noise with a bright or dark block, its class, and its first corner."""
    rng = np.random.default_rng(1)
    items, corners = [], []
    for sample in range(16):
        corner = tuple(int(rng.integers(0, n - SIDE)) for n in (SLICES, HEIGHT, WIDTH))
        values = 50 * rng.standard_normal((SLICES, HEIGHT, WIDTH))
        block = tuple(slice(first, first + SIDE) for first in corner)
        values[block] += 1000 * (1 - 2 * (sample % 2))
        items.append((values.astype(np.int16), sample % 2))
        corners.append(corner)
    return items, corners


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    """Return a database of volumes of 16-bit integers."""
    given = sl.ArrayInput((1, SLICES, HEIGHT, WIDTH), (-1000, 1000), lambda x: x / 1000)
    model = sl.SubjectModel(BlobNet().eval(), given, classes=["bright", "dark"])
    images = sl.ArraySequence(
        volumes()[0], axes=3, rendering="window:0,2000", classes=["bright", "dark"]
    )
    embedder = sl.load_embedder("self:conv", model=model)
    return sl.build(
        tmp_path_factory.mktemp("volumes") / "db", model, images, embedder,
        ["conv", "act", "pool"], examples=4, relevance=True,
    )  # fmt: skip


def test_examples_of_volumes_are_in_the_slice_of_the_block(blobs):
    items, corners = volumes()
    forms = {layer.name: (layer.form, layer.height, layer.width) for layer in blobs.manifest.layers}
    assert forms["act"] == ("volume", SLICES * HEIGHT, WIDTH)
    assert forms["pool"] == ("volume", SLICES * HEIGHT // 4, WIDTH // 2)
    for name in ("conv:0", "conv:1", "act:0", "act:1", "pool:0", "pool:1"):
        component = Component.parse(name)
        for example in blobs.examples_of(blobs.row(component)):
            depth, top, left = corners[example.sample]
            assert items[example.sample][1] == component.index
            box = example.box
            chosen = box.top // HEIGHT
            assert (box.bottom - 1) // HEIGHT == chosen  # one slice
            assert depth <= chosen < depth + SIDE
            assert abs((box.left + box.right) / 2 - (left + SIDE / 2)) <= 3
            assert abs((box.top + box.bottom) / 2 - chosen * HEIGHT - (top + SIDE / 2)) <= 3


def test_questions_about_volumes(blobs):
    relevant = blobs.class_relevance("dark", concepts=None).to_pandas()
    assert set(relevant.loc[relevant["mean"] > 0.5, "component"]) == {"conv:1", "act:1", "pool:1"}
    explained = blobs.explain(volumes()[0][1][0], concepts=None)
    assert explained.target.name == "dark"
    assert str(explained.layers["act"][0].component) == "act:1"
    picture = blobs.images.read(1)
    assert picture.size == (WIDTH, SLICES * HEIGHT)
    box = explained.layers["act"][0].box
    part, inside = in_slice(picture, box)
    assert part.size == (WIDTH, HEIGHT)
    assert np.array_equal(
        np.asarray(part.crop(inside.as_tuple())), np.asarray(picture.crop(box.as_tuple()))
    )
    # the crop has the numbers of its slice
    crop = picture.crop(box.as_tuple())
    row = box.top // HEIGHT
    expected = volumes()[0][1][0][
        row, box.top % HEIGHT : (box.bottom - 1) % HEIGHT + 1, box.left : box.right
    ]
    assert np.array_equal(crop.values[0, 0], expected)
    assert crop.in_place.shape == (1, SLICES, HEIGHT, WIDTH)


def test_conservation_holds_for_signals_and_volumes(bands, blobs):
    for db in (bands, blobs):
        model = db.model
        inputs = model.batch([model.prepare(db.images.read(i)) for i in range(3)])
        engine = sl.make_engine(model.module, inputs, ["act"])
        table = sl.check_conservation(engine, inputs).to_pandas().set_index("part")
        assert abs(table.loc["residual", "share"]) < 1e-4
        assert table.loc["pixels", "share"] == pytest.approx(1, abs=1e-3)  # there are no biases


@pytest.mark.parametrize(("before", "after"), [((2, 5, 4), (6, 20, 16)), ((3, 4, 4), (3, 8, 8))])
def test_volumes_are_smoothed_along_three_axes(before, after):
    maps = torch.rand(2, *before)
    expected = functional.interpolate(maps[:, None], after, mode="trilinear", align_corners=False)[
        :, 0
    ].double()
    for axis, size in enumerate(after, start=1):
        expected = _blurred(expected, axis, kernel_size(0.3, size))
    found = upsample_and_blur(
        maps.flatten(1, 2), after[0] * after[1], after[2], 0.3, (before[0], after[0])
    )
    assert torch.allclose(found.double(), expected.flatten(1, 2), atol=1e-5)
    strongest = strongest_slices(found, after[0]).unflatten(1, after[:2])
    for one, whole in zip(strongest, found.unflatten(1, after[:2]), strict=True):
        kept = int(whole.amax((1, 2)).argmax())
        assert [bool(part.any()) for part in one] == [row == kept for row in range(after[0])]
        assert torch.equal(one[kept], whole[kept])


def _blurred(values: torch.Tensor, axis: int, kernel: int) -> torch.Tensor:
    """Blur along an axis by the definition: a sum over offsets, reflected at the borders."""
    size = values.shape[axis]
    radius = min(kernel // 2, size - 1)
    sigma = 0.3 * ((kernel - 1) * 0.5 - 1) + 0.8
    offsets = range(-radius, radius + 1)
    weights = np.array([np.exp(-0.5 * (o / sigma) ** 2) for o in offsets]) if radius else [1.0]
    rows = []
    for place in range(size):
        total = 0
        for offset, weight in zip(offsets, weights, strict=True):
            at = abs(place + offset)
            at = at if at < size else 2 * (size - 1) - at
            total = total + weight * values.select(axis, at)
        rows.append(total / sum(weights))
    return torch.stack(rows, axis)


def test_inputs_are_refused_in_words(band_model):
    with pytest.raises(ModelError, match=r"picture of 5 x 4 pixels without them"):
        band_model.prepare(Image.new("RGB", (5, 4)))
    short = sl.ArraySequence([np.zeros(100, np.float32)] * 2, axes=1)
    with pytest.raises(ModelError, match=r"shape \[1, 100\].*\n?.*\[1, 128\]"):
        band_model.prepare(short.read(0))
    wrong: Sequence[tuple[int, ...]] = [(3,), (1, 0), (1, 2, 3, 4, 5)]
    for shape in wrong:
        with pytest.raises(ModelError, match="shape of the input"):
            sl.ArrayInput(shape)
    with pytest.raises(ModelError, match="value_range"):
        sl.ArrayInput((1, 10), (1, 1))
    cut = sl.ArrayInput((1, LENGTH), transform=lambda x: x[:, ::2])
    with pytest.raises(ModelError, match=r"makes \[1, 64\]"):
        sl.SubjectModel(BandNet().eval(), cut)
    with pytest.raises(DataError, match="'plot' is declared for volumes"):
        sl.ArraySequence(np.zeros((2, 4, 4, 4)), axes=3, rendering="plot")
    with pytest.raises(DataError, match="4 axes"):
        sl.ArraySequence(np.zeros((2, 4)), axes=4)


def test_tensors_of_one_value_may_have_any_stride():
    # as ONNX constants have
    one, two = (torch.nn.ParameterDict({"a": torch.ones(()).expand(1) * k}) for k in (1, 2))
    one["a"] = nn.Parameter(torch.ones(()).expand(1))
    assert one["a"].stride() == (0,)
    assert weights_digest(one) != weights_digest(two)
    plain = torch.nn.ParameterDict({"a": torch.ones(1)})
    assert weights_digest(one) == weights_digest(plain)
