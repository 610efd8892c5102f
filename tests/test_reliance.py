"""Inserted signs against matched controls: the test's formula, its null, and planted reliance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import WordEmbedder, assert_says, to_tensor, write_pictures
from PIL import Image
from scipy import stats
from torch import nn

import semlens as sl
from semlens.data.artefact import Patch, artefact_seed, load_artefact
from semlens.data.image_folder import ImageFolder
from semlens.errors import DataError, RelevanceError
from semlens.lenses.reliance.controls import variants as variants_of
from semlens.lenses.reliance.reliance import compare_rises
from semlens.lenses.statistics.excess import p_above_zero
from semlens.models.ablation import pruned

RED, GREEN = "patch:255,0,0:size=0.3:opacity=1", "patch:0,255,0:size=0.3:opacity=1"


class Redness(nn.Module):
    """A map of logits: 1 relies on red minus green and blue, 2 on brightness, 3 falls with red."""

    def __init__(self) -> None:
        super().__init__()
        self.colours = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
        self.head = nn.Conv2d(4, 4, 1, bias=False)
        with torch.no_grad():
            red, bright = [1.0, -1.0, -1.0], [1 / 3] * 3
            rows = torch.tensor([red, bright, [0.0, 1.0, -1.0], [0.0, -1.0, 1.0]])
            self.colours[0].weight.copy_(rows[..., None, None])
            self.colours[0].bias.copy_(torch.tensor([-0.2, 0, 0, 0]))
            head = torch.zeros(4, 4)
            head[1, 0], head[2, 1], head[3, 0] = 5, 1, -5
            head[0, 2] = 0.3
            self.head.weight.copy_(head[..., None, None])

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.head(self.colours(x))}


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reliance")
    images = ImageFolder(write_pictures(folder / "images", 40))
    names = ["ground", "ripe", "bright", "unripe"]
    model = sl.SubjectModel(Redness(), to_tensor, "1", classes=names)
    return sl.build(
        folder / "db", model, images, WordEmbedder(), ["colours"], examples=2, crop="none"
    )


def by_hand(values: np.ndarray) -> float:
    """Student's t with Hall's transformation (1992), as plain sums in float64."""
    n = len(values)
    mean = sum(values) / n
    deviation = (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5
    skew = sum((v - mean) ** 3 for v in values) / n / deviation**3
    t = n**0.5 * mean / deviation
    s = mean / deviation
    moved = n**0.5 * (s + skew * s**2 / 3 + skew**2 * s**3 / 27 + skew / (6 * n))
    return float(stats.t.sf(min(t, moved), n - 1))


@pytest.mark.parametrize("skewed", [False, True])
def test_the_p_value_is_that_of_the_formula(skewed):
    rng = np.random.default_rng(0)
    for mean in (-0.2, 0.0, 0.3):
        values = mean + (rng.exponential(size=40) - 1 if skewed else rng.normal(size=40))
        assert p_above_zero(values) == pytest.approx(by_hand(values), rel=1e-9)
    assert p_above_zero(np.full(9, 0.1)) == 0
    assert p_above_zero(np.zeros(9)) == 1


def test_at_the_margin_few_are_found_and_beyond_it_most():
    """Targets that rise by exactly a third of a deviation more than both controls are the null."""
    rng, found = np.random.default_rng(1), {0.33: 0, -0.33: 0, 0.8: 0, -0.8: 0}
    for _ in range(300):
        for rise in found:
            plain = rng.normal(size=60)
            values = {
                "plain": plain,
                "sign": plain + rise * np.std(plain) + rng.normal(0, 0.4, 60),
                "covered": plain - np.sign(rise) * 0.02,
                "scrambled": plain + rng.normal(0, 0.1, 60) - np.sign(rise) * 0.02,
            }
            found[rise] += compare_rises(values)["p_value"] < 0.05
    assert found[0.33] < 0.06 * 300 and found[-0.33] < 0.06 * 300, found
    assert found[0.8] > 0.95 * 300 and found[-0.8] > 0.95 * 300, found


def test_what_a_control_does_too_counts_one_and_a_half_times():
    plain = np.random.default_rng(2).normal(size=100)
    spread = plain.std(ddof=1)

    def p_value(sign: float, control: float) -> float:
        noise = np.random.default_rng(3).normal(0, 0.01, 100)
        values = {
            "plain": plain, "sign": plain + (sign + noise) * spread,
            "covered": plain, "scrambled": plain + control * spread,
        }  # fmt: skip
        found = compare_rises(values)
        assert found["control"] == "scrambled" or control <= 0
        return found["p_value"]

    assert p_value(2 * 1.5 + 0.38, 2) < 0.001 and p_value(2 * 1.5 + 0.28, 2) > 0.5
    assert p_value(-0.38, 0.0) < 0.001 and p_value(-0.28, 0.0) > 0.5  # it falls
    # a control that lowers the target is no reason to find a sign that does nothing
    assert p_value(0.0, -3.0) > 0.5


def variants(image: Image.Image, artefact: str | Patch) -> dict[str, np.ndarray]:
    artefact = load_artefact(artefact) if isinstance(artefact, str) else artefact
    found = variants_of(image, artefact, 0)
    return {name: np.asarray(one).astype(int) for name, one in found.items()}


def test_controls_are_at_the_place_of_the_sign():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(40, 200, (40, 50, 3), np.uint8))
    found = variants(image, "patch:255,0,0:size=0.25:place=top-left:opacity=1")
    plain = np.asarray(image)
    place = (found["sign"] != plain).any(2)
    assert place.sum() == 100 and (found["sign"][place] == (255, 0, 0)).all()
    for control in ("covered", "scrambled"):
        assert ((found[control] != plain).any(2) <= place).all()
        assert (found[control][place] != (255, 0, 0)).all()
    assert (found["covered"][place] == plain[~place].mean(0).round()).all()
    assert (found["scrambled"][place] == (127, 128, 128)).all()
    # an image that shows the sign already is covered as well
    shown = variants(Image.fromarray(found["sign"].astype(np.uint8)), "patch:255,0,0:size=0.25"
                     ":place=top-left:opacity=1")  # fmt: skip
    assert (shown["sign"] == shown["plain"]).all()
    assert (shown["covered"][place] == found["covered"][place]).all()
    # letters lose their form: as many pixels, elsewhere in their box
    words = variants(image, "text:OK:size=0.4:opacity=1")
    letters, noise = ((words[one] != plain).any(2) for one in ("sign", "scrambled"))
    assert noise.sum() == pytest.approx(letters.sum(), rel=0.05)
    assert (letters & noise).sum() < 0.9 * letters.sum()


def test_a_sign_over_the_whole_image_is_compared_with_as_large_a_change():
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(40, 200, (40, 50, 3), np.uint8))
    found = variants(image, "hue:255,0,0:opacity=0.4")
    assert (found["covered"] == found["plain"]).all()
    change, control = (found[one] - found["plain"] for one in ("sign", "scrambled"))
    inside = (found["scrambled"] > 0) & (found["scrambled"] < 255)
    assert inside.mean() > 0.7
    assert change[..., 0].mean() > 30 > change[..., 1].mean()
    assert control[..., 1].mean() == pytest.approx(change[..., 0].mean(), abs=8)


def test_any_target_relies_on_what_it_reads_and_on_nothing_else(db):
    found = {
        (target, artefact): db.reliance(target, artefact, count=40)
        for target in ("region:ripe@0,0,32,32", "region:bright@0,0,32,32")
        for artefact in (RED, GREEN)
    }
    rows = {key: one.frame.iloc[0] for key, one in found.items()}
    assert rows["region:ripe@0,0,32,32", RED]["relies"]
    assert rows["region:ripe@0,0,32,32", RED]["excess"] > 0.33
    for key, row in rows.items():
        assert row["relies"] == (key == ("region:ripe@0,0,32,32", RED)), key
    fallen = db.reliance("region:unripe@0,0,32,32", [GREEN, RED], count=40)
    assert fallen.relied_on == ["patch 2"] and fallen.frame["excess"][0] < -0.33
    p_values = fallen.frame["p_value"].to_numpy()
    assert fallen.frame["adjusted"].to_numpy() == pytest.approx(np.minimum(2 * p_values, 1))
    assert "'region:unripe@0,0,32,32' relies on 'patch 2'" in fallen.sentence()
    assert "is not shown to rely on 'patch 1'" in fallen.sentence()
    function = sl.Target.function(lambda output: output["out"][:, 1].amax((1, 2)), "1")
    assert db.reliance(function, RED, count=40).relied_on == ["patch"]


def test_values_and_carriers_are_those_of_the_models_own_passes(db):
    artefact, target = load_artefact(RED), sl.Target.region(1, mask=torch.ones(32, 32))
    result = db.reliance(target, artefact, count=10, seed=3)
    samples = np.linspace(0, 39, 10).round().astype(int)
    made = [variants_of(db.images.read(i), artefact, artefact_seed(3, i)) for i in samples.tolist()]
    batches = {name: torch.stack([to_tensor(one[name]) for one in made]) for name in made[0]}

    def mean(name: str) -> float:
        with torch.no_grad():
            return float(db.model.module(batches[name])["out"][:, 1].mean())

    row = result.frame.iloc[0]
    for name, column in (("sign", "rise"), ("covered", "covered"), ("scrambled", "scrambled")):
        assert row[column] == pytest.approx(mean(name) - mean("plain"), abs=1e-5)
    gain = mean("sign") - mean(row["control"])
    assert result.images == 10 and len(result.components) == 4
    for component, carried in zip(
        result.components["component"], result.components["carried"], strict=True
    ):
        with pruned(db.model, [component]):
            left = mean("sign") - mean(row["control"])
        assert carried == pytest.approx(1 - left / gain, abs=1e-4)
    assert str(result.carriers("patch")[0]) == "colours:0"
    assert result.components["carried"][0] > 0.8


def test_what_has_no_answer_is_refused(db, tmp_path):
    with pytest.raises(DataError) as caught:
        db.reliance("region:ripe", [])
    assert_says(caught.value, "no artefact")
    with pytest.raises(DataError) as caught:
        db.reliance("region:ripe", RED, images=[db.images.read(0)] * 3)
    assert_says(caught.value, "3 images")
    with pytest.raises(RelevanceError) as caught:
        db.reliance("region:ripe@0,0,32,32", RED, images=[db.images.read(0)] * 8)
    assert_says(caught.value, "on all of 8 images")
    with pytest.raises(RelevanceError) as caught:
        db.reliance("ripe", RED)
    assert_says(caught.value, "Expected one row of values per image")
    nowhere = sl.Target.function(lambda output: output["out"][:, 1].mean((1, 2)) / 0, "2")
    with pytest.raises(RelevanceError) as caught:
        db.reliance(nowhere, RED)
    assert_says(caught.value, "not a number")
