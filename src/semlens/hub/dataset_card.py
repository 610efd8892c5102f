"""The card of a published database: what the manifest says, as Markdown with YAML metadata."""

from __future__ import annotations

from collections.abc import Iterator

from semlens.hub.client import Repository
from semlens.hub.published_files import Published
from semlens.recipe import Recipe
from semlens.store.manifest import LayerEntry, Manifest
from semlens.version import __version__

MAP = "map.webp"
"""The picture of the map in the repository."""
_SIZES = {
    "n<1K": 1_000, "1K<n<10K": 10_000, "10K<n<100K": 100_000, "100K<n<1M": 1_000_000,
    "1M<n<10M": 10_000_000,
}  # fmt: skip
"""The hub's categories of size, by number of rows, and the number that each ends before."""


def dataset_card(
    repository: Repository, published: Published, license: str, *, with_map: bool
) -> str:
    """Return the README.md of a data set repository.

    Parameters
    ----------
    license
        The hub's identifier of a licence, such as ``cc-by-4.0``.
    with_map
        Whether the repository has the picture :data:`MAP`.
    """
    manifest, title = published.manifest, repository.name.partition("/")[2]
    parts = [
        _metadata(manifest, title, license),
        f"# {title}\n",
        f"Concept database of the vision model `{manifest.model.spec}`: {manifest.rows:,} "
        f"components of {_count(len(manifest.layers), 'layer')}, each with its strongest examples "
        f"among {manifest.samples:,} images and a vector in the space of the foundation model "
        f"`{manifest.embedder.spec}`. It can be searched, labelled, audited and compared with "
        f"[semlens](https://pypi.org/project/semlens/).\n",
        *([f"![Map of the components]({MAP})\n"] if with_map else []),
        _usage(repository),
        "## What it was built from\n",
        _table(("", "SPEC", "fingerprint (SHA-256)"), _sources(published)),
        "The model, the images and the embedder are not part of this repository. Searching by "
        "words loads the embedder; its fingerprint is verified.\n",
        "## Layers\n",
        _table(
            ("layer", "components", "kind", "readout", "crops"),
            (_layer_row(layer, manifest.recipe) for layer in manifest.layers),
        ),
        "## Images\n",
        _images(published),
        "## Settings\n",
        _table(
            ("setting", "value"),
            ((f"`{name}`", _value(v)) for name, v in manifest.recipe.model_dump().items()),
        ),
        _relevance(manifest),
        f"Written by semlens {__version__}; format {manifest.format} of databases. "
        "`manifest.json` has the SHA-256 of every file; `semlens db verify` compares them.\n",
    ]
    return "\n".join(part for part in parts if part)


def _metadata(manifest: Manifest, title: str, license: str) -> str:
    size = next((name for name, end in _SIZES.items() if manifest.rows < end), "n>10M")
    return (
        f"---\nlicense: {license}\npretty_name: {title}\ntags:\n- semlens\n- interpretability\n"
        f"- explainable-ai\n- concept-database\nsize_categories:\n- {size}\nviewer: false\n---\n"
    )


def _usage(repository: Repository) -> str:
    return f"""## How to open it

```
pip install semlens
semlens search {repository.url} "a red flower"
semlens serve {repository.url}
semlens db pull {repository.url}
```

```python
import semlens as sl

db = sl.open("{repository.url}")
```
"""


def _sources(published: Published) -> Iterator[tuple[str, ...]]:
    for name in ("model", "data", "embedder"):
        source = getattr(published.manifest, name)
        yield name, f"`{source.spec}`", f"`{source.fingerprint}`"
    yield "database", "`manifest.json`", f"`{published.fingerprint}`"


def _layer_row(layer: LayerEntry, recipe: Recipe) -> tuple[str, ...]:
    kind = layer.dictionary.kind if layer.dictionary is not None else layer.form
    return f"`{layer.name}`", f"{layer.rows:,}", kind, recipe.readout, layer.crop


def _images(published: Published) -> str:
    manifest = published.manifest
    skipped = f", {manifest.unreadable:,} of them unreadable" if manifest.unreadable else ""
    crops = (
        f"It contains **{sum(manifest.crops):,} crops of them** as thumbnails of 120 x 120 pixels. "
        "These are parts of images: the rights to the images, and what they show, apply to them."
        if published.crops
        else "It contains no pictures: crops were left out, and only their boxes are here."
    )
    return (
        f"{manifest.samples:,} images{skipped}. {crops} Names of the image files and of classes "
        "are in `samples.parquet`.\n"
    )


def _relevance(manifest: Manifest) -> str:
    if manifest.relevance is None:
        return "Class relevance is not included.\n"
    relevance = manifest.relevance
    return f"Class relevance: by the rules `{relevance.rules}`, for {relevance.targets}.\n"


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _value(value: object) -> str:
    return (
        f"{value:.4g}" if isinstance(value, float) else "default" if value is None else f"{value}"
    )


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'s' * (number != 1)}"
