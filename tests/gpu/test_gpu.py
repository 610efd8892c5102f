"""The same on a real GPU, if there is one: CUDA's, or Apple's."""

from __future__ import annotations

from collections.abc import Iterator

import device_cases as cases
import numpy as np
import pytest
import torch

DEVICES = ["cuda"] * torch.cuda.is_available() + ["mps"] * torch.backends.mps.is_available()
TOLERANCE = 1e-3
pytestmark = [
    pytest.mark.skipif(not DEVICES, reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore:With rules"),
]
on_each_device = pytest.mark.parametrize("device", DEVICES or ["none"])


@pytest.fixture(autouse=True)
def full_precision() -> Iterator[None]:
    """Switch off TF32, in which a GPU's convolutions have three digits."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@on_each_device
@pytest.mark.parametrize("settings", cases.BUILDS)
def test_a_build_says_the_same_as_on_the_cpu(tmp_path, device, settings):
    images = cases.with_unreadable_batch(tmp_path / "pictures")
    expected = cases.build_on("cpu", tmp_path / "cpu", images, **settings)
    found = cases.build_on(device, tmp_path / device, images, **settings)
    cases.assert_same_database(found, expected, TOLERANCE)


@pytest.mark.slow
@on_each_device
@pytest.mark.parametrize("name", cases.QUESTIONS)
def test_a_question_says_the_same_as_on_the_cpu(name, device, demo, tmp_path):
    expected = cases.answer_on("cpu", name, demo, tmp_path)
    found = cases.answer_on(device, name, demo, tmp_path)
    cases.assert_same_answer(found, expected, TOLERANCE)


@pytest.mark.slow
@on_each_device
@pytest.mark.parametrize("spec", cases.BUNDLED)
def test_an_embedder_says_the_same_as_on_the_cpu(spec, device):
    found, expected = cases.embed_on(device, spec), cases.embed_on("cpu", spec)
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.slow
@on_each_device
@pytest.mark.parametrize("name", cases.NETWORKS)
@pytest.mark.parametrize("rules", ["auto", "gradient"])
def test_relevance_of_a_network_is_the_same_as_on_the_cpu(name, device, rules):
    found, expected = (cases.relevance_on(place, name, rules) for place in (device, "cpu"))
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE)
