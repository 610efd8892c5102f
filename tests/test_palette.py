"""One set of colours: pictures of the command line, reports and the web application."""

from __future__ import annotations

import colorsys
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image
from web_browser import ROOT

from semlens.draw.explanation_picture import ExplanationCard, ExplanationPage, draw_page, page_html
from semlens.draw.figure import SIGNED
from semlens.draw.figures import draw_figure
from semlens.draw.heatmap_mask import overlay
from semlens.draw.palette import AGAINST, FOR, ON_DARK, VERDICTS, rgb
from semlens.figures import FigureSpec, Series, Values

LIGHT = {"for": FOR, "against": AGAINST, **VERDICTS}
STYLES = (ROOT / "web/src/app.css").read_text()


def tokens(name: str) -> tuple[str, str]:
    """Return the value of a token of the page in the light and in the dark theme."""
    found = re.search(rf"--{name}: light-dark\((#\w{{6}}), (#\w{{6}})\);", STYLES)
    assert found, name
    return found[1], found[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast of WCAG 2.2 of two colours."""
    linear = [
        np.array([c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels])
        for channels in (np.array(rgb(one)) / 255, np.array(rgb(other)) / 255)
    ]
    dark, light = sorted(float(values @ (0.2126, 0.7152, 0.0722)) for values in linear)
    return (light + 0.05) / (dark + 0.05)


def hue(colour: str) -> float:
    return 360 * colorsys.rgb_to_hls(*(value / 255 for value in rgb(colour)))[0]


@pytest.mark.parametrize("name", LIGHT)
def test_the_page_has_the_colours_of_the_pictures(name: str):
    light, dark = tokens(name)
    assert (light, dark) == (LIGHT[name], ON_DARK[name])
    assert abs((hue(light) - hue(dark) + 180) % 360 - 180) < 12, "another hue in the dark theme"
    for theme, colour in enumerate((light, dark)):
        for plate in ("paper", "plate", "raised"):
            assert contrast(colour, tokens(plate)[theme]) >= 3


def test_text_against_a_class_is_readable():
    for theme, colour in enumerate(tokens("against-text")):
        assert abs(hue(colour) - hue(AGAINST)) < 12
        for plate in ("paper", "plate", "raised"):
            assert contrast(colour, tokens(plate)[theme]) >= 4.5


def test_blue_is_for_and_orange_against_in_every_picture():
    plain = Image.new("RGB", (3, 1), (128, 128, 128))
    heat = np.asarray(overlay(plain, np.array([[1.0, 0, -1.0]], np.float32))).astype(int)[0]
    for pixel, colour in ((heat[0], FOR), (heat[2], AGAINST)):
        assert np.argsort(pixel).tolist() == np.argsort(rgb(colour)).tolist()
    assert [round(255 * c) for c in SIGNED(1.0)[:3]] == list(rgb(FOR))
    assert [round(255 * c) for c in SIGNED(0.0)[:3]] == list(rgb(AGAINST))
    cards = [
        ExplanationCard(f"layer:{i}", "", share, share, Image.new("RGB", (8, 8)), [])
        for i, share in enumerate((0.5, -0.5))
    ]
    page = ExplanationPage("Why?", [], plain, plain, [("layer", "", cards)])
    drawn = set(map(tuple, np.asarray(draw_page(page)).reshape(-1, 3).tolist()))
    assert {rgb(FOR), rgb(AGAINST)} <= drawn
    assert page_html(page).index(f"background:{FOR}") < page_html(page).index(
        f"background:{AGAINST}"
    )


def test_bars_of_signed_values_have_these_colours():
    bars = Values("", ["a", "b"], [Series([1.0, -1.0], tones=["for", "against"])], "unit")
    figure = draw_figure(FigureSpec("values", [bars]), None)
    assert [to_hex(bar.get_facecolor()) for bar in figure.axes[0].patches] == [FOR, AGAINST]
