"""Builds, questions and embedders on a device that is emulated: strict, but computed on the CPU."""

from __future__ import annotations

import device_cases as cases
import numpy as np
import pytest
import torch
from conftest import ColourEmbedder, assert_says
from emulated_accelerator import emulated_accelerator
from test_embedders import KINDS

from semlens.errors import ModelError
from semlens.models.hooks import FittingBatches, SmallerBatchWarning
from semlens.models.subject import SubjectModel
from semlens.relevance.make_engine import EngineCache
from semlens.run.relevance import collect_class_relevance
from semlens.stages.collect import collect, layer_layouts
from semlens.stages.embed import CropRef, embed
from semlens.types import Box

DEVICE = "emulated:0"
TOLERANCE = 1e-5
pytestmark = pytest.mark.filterwarnings("ignore:With rules")


def test_it_refuses_what_a_gpu_refuses_and_counts_waits():
    with emulated_accelerator() as accelerator:
        value = torch.ones(3, device="emulated") + torch.ones(3).to("emulated")
        assert value.device == torch.device(DEVICE)
        assert value.cpu().tolist() == [2, 2, 2] and accelerator.waits == {"copy": 1}
        assert float(value.sum()) == 6 and accelerator.waits["value"] == 1
        with pytest.raises(RuntimeError, match="same device"):
            value + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            value.numpy()
        with pytest.raises(RuntimeError, match="cannot be indexed"):
            torch.ones(3)[torch.zeros(1, dtype=torch.int64, device="emulated")]
        value[1:] *= 2
        assert value.cpu().tolist() == [2, 4, 4]
        assert value.double().dtype == torch.float64
    with emulated_accelerator(float64=False), pytest.raises(TypeError, match="float64"):
        torch.ones(3, device="emulated").double()


@pytest.mark.skipif(not torch.backends.cuda.is_built(), reason="PyTorch has no CUDA kernels")
def test_it_refuses_an_operator_without_a_cuda_kernel():
    with emulated_accelerator(), pytest.raises(NotImplementedError, match="no CUDA kernel"):
        torch.histogram(torch.ones(4, device="emulated"), 2)


@pytest.mark.parametrize("settings", cases.BUILDS)
def test_a_build_says_the_same_as_on_the_cpu(tmp_path, settings):
    images = cases.with_unreadable_batch(tmp_path / "pictures")
    expected = cases.build_on("cpu", tmp_path / "cpu", images, **settings)
    for float64 in (True, False):
        with emulated_accelerator(float64=float64):
            found = cases.build_on(DEVICE, tmp_path / f"float64-{float64}", images, **settings)
        cases.assert_same_database(found, expected, TOLERANCE)


FIRST_LAYER = 6 * 16 * 16 * 4
"""Bytes of an image's largest value."""


@pytest.mark.parametrize(("fits", "sizes"), [(3, [4, 2]), (1, [4, 2, 1])])
def test_a_batch_that_does_not_fit_is_halved(images, fits, sizes):
    def collected(model: SubjectModel) -> dict[str, torch.Tensor]:
        found = collect(model, images, layouts, range(6), examples=5, readout="max", batch_size=8)
        return found.tensors()

    model = cases.subject_on("cpu")
    layouts = layer_layouts(model, ["first", "second"], "max")
    expected = collected(model)
    with (
        emulated_accelerator(memory=fits * FIRST_LAYER),
        pytest.warns(SmallerBatchWarning) as warned,
    ):
        found = collected(cases.subject_on(DEVICE))
    said = [str(one.message) for one in warned if one.category is SmallerBatchWarning]
    assert [f"--batch-size {size} says" in one for one, size in zip(said, sizes, strict=True)]
    assert "for 8 images at once: passes have 4." in said[0]
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


class ConvolutionEmbedder(ColourEmbedder):
    """Computes on the device, unlike the plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.ones(self.dim, 3, 2, 2, device=DEVICE)

    def _images(self, batch: torch.Tensor) -> torch.Tensor:
        scale = torch.arange(1.0, self.dim + 1).to(DEVICE)
        return torch.conv2d(batch.to(DEVICE), self.weight).amax((2, 3)) * scale


def test_crops_of_a_batch_that_does_not_fit_are_embedded_in_parts(images):
    crops = [CropRef(sample, Box(0, 0, 9 + sample, 12)) for sample in range(5)]

    def embedded() -> torch.Tensor:
        vectors, _ = embed(ConvolutionEmbedder(), crops, images.read, thumbnails=(), batch_size=4)
        return vectors

    with emulated_accelerator():
        expected = embedded()
    image = ColourEmbedder.dim * 3 * 3 * 4
    with emulated_accelerator(memory=2 * image), pytest.warns(SmallerBatchWarning) as warned:
        torch.testing.assert_close(embedded(), expected)
    assert len(warned) == 1


def test_one_image_that_does_not_fit_is_an_error(tmp_path, images):
    model = cases.subject_on("cpu")
    layouts = layer_layouts(model, ["second"], "max")
    with emulated_accelerator(memory=FIRST_LAYER - 1), pytest.warns(SmallerBatchWarning):
        model.module.to(DEVICE)
        with pytest.raises(ModelError) as error:
            collect(model, images, layouts, range(6), examples=5, readout="max", batch_size=8)
    assert_says(error.value, "One image does not fit", "forward pass", "--device cpu")


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    def fail(batch: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="multiplied"):
        FittingBatches().run(fail, torch.zeros(4, 2), torch.cat)


@pytest.mark.parametrize("relevance", [False, True])
def test_waits_do_not_grow_with_the_layers(images, relevance):
    def waits(layers: list[str]) -> int:
        model = cases.subject_on(DEVICE)
        engines = EngineCache(model, "gradient")
        layouts = layer_layouts(model, layers, "max")
        rows = {layout.name: layout.components for layout in layouts}
        collect_class_relevance(model, engines, images, rows, range(8), None, batch_size=8)
        accelerator.waits.clear()
        if relevance:
            samples = range(len(images))
            collect_class_relevance(model, engines, images, rows, samples, None, batch_size=8)
            return accelerator.waits.total()
        collect(model, images, layouts, range(6), examples=5, readout="max", batch_size=8)
        return accelerator.waits.total() - 2 * len(layers)  # the result itself: keys and positions

    with emulated_accelerator() as accelerator:
        assert 6 <= waits(["second"]) == waits(["first", "second"]) <= 6 * 5


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.QUESTIONS)
def test_a_question_says_the_same_as_on_the_cpu(name, demo, tmp_path):
    expected = cases.answer_on("cpu", name, demo, tmp_path)
    with emulated_accelerator(float64=False):
        found = cases.answer_on(DEVICE, name, demo, tmp_path)
    cases.assert_same_answer(found, expected, TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*KINDS, *cases.BUNDLED])
def test_an_embedder_says_the_same_as_on_the_cpu(name, tmp_path):
    spec = name
    if name in KINDS:
        make, library, _ = KINDS[name]
        spec = f"{library}/{make(tmp_path / name)}"
    expected = cases.embed_on("cpu", spec)
    with emulated_accelerator(float64=False):
        found = cases.embed_on(DEVICE, spec)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.NETWORKS)
@pytest.mark.parametrize("rules", ["auto", "gradient"])
def test_relevance_of_a_network_is_the_same_as_on_the_cpu(name, rules):
    expected = cases.relevance_on("cpu", name, rules)
    with emulated_accelerator(float64=False):
        np.testing.assert_allclose(cases.relevance_on(DEVICE, name, rules), expected, rtol=1e-4)
