"""Publishing a database as a data set repository of the Hugging Face Hub, in one commit.

Its card says what the manifest says, as Markdown with YAML metadata.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

from semlens.errors import RecipeError, shortened
from semlens.hub.client import Repository, hub_errors
from semlens.hub.published_files import Published, published_files
from semlens.lenses.describe.concept_map import concept_map
from semlens.recipe import Recipe
from semlens.store import file_names
from semlens.store.manifest import MANIFEST_NAME, LayerEntry, Manifest
from semlens.store.reader import Database
from semlens.version import __version__
from semlens.wording import markdown_table

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
        f"components of {len(manifest.layers)} layer{'s' * (len(manifest.layers) != 1)}, each with "
        f"its strongest examples among {manifest.samples:,} images and a vector in the space of "
        f"the foundation model `{manifest.embedder.spec}`. It can be searched, labelled, audited "
        f"and compared with [semlens](https://pypi.org/project/semlens/).\n",
        *([f"![Map of the components]({MAP})\n"] if with_map else []),
        _usage(repository),
        "## What it was built from\n",
        markdown_table(("", "SPEC", "fingerprint (SHA-256)"), _sources(published)) + "\n",
        "The model, the images and the embedder are not part of this repository. Searching by "
        "words loads the embedder; its fingerprint is verified.\n",
        "## Layers\n",
        markdown_table(
            ("layer", "components", "kind", "readout", "crops"),
            (_layer_row(layer, manifest.recipe) for layer in manifest.layers),
        )
        + "\n",
        "## Images\n",
        _images(published),
        "## Settings\n",
        markdown_table(
            ("setting", "value"),
            ((f"`{name}`", _value(v)) for name, v in manifest.recipe.model_dump().items()),
        )
        + "\n",
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


def _value(value: object) -> str:
    return (
        f"{value:.4g}" if isinstance(value, float) else "default" if value is None else f"{value}"
    )


CARD = "README.md"
MOST_ON_MAP = 5_000
"""Components up to which a picture of the map is drawn: it takes seconds."""
_LICENCE = re.compile(r"[a-z][a-z0-9.+-]{1,40}")


@dataclass(frozen=True)
class Pushed:
    """A published database."""

    url: str
    """The URL that :func:`semlens.open` takes."""
    page: str
    """Its page on the hub."""
    commit: str
    fingerprint: str
    """That of the published database."""
    files: int
    bytes: int
    crops: int
    """Published crops of images."""


def push_to_hub(
    database: Database,
    repository: str,
    *,
    license: str,
    crops: bool,
    private: bool = True,
    results: bool = True,
    audits: bool = False,
    draw_map: bool = True,
    message: str | None = None,
) -> Pushed:
    """Publish the database as a data set repository of the Hugging Face Hub, in one commit.

    The repository gets a card, written from the manifest. Files that the database no longer
    has are removed from it. Names of image files and of classes are always published; absolute
    paths in SPECs are shortened to their last part.

    Parameters
    ----------
    repository
        ``USER/NAME``, or ``USER/NAME@BRANCH``.
    license
        The hub's identifier of the licence, such as ``cc-by-4.0`` or ``other``.
    crops
        Whether to publish the thumbnails of the examples. They are parts of images: publish
        them only if you have the right to.
    private
        Whether a new repository is private; the setting of an existing one stays.
    results
        Whether to publish saved labels and measures of components.
    audits
        Whether to publish saved audits, with the notes of their reviewers.
    draw_map
        Whether to draw the map for the card, of up to 5,000 components; it is shown with crops
        if they are published, and needs the embedder.
    message
        Message of the commit.

    Raises
    ------
    StoreError
        If the database is elsewhere or damaged, the hub cannot be reached, or you may not
        write to the repository.
    RecipeError
        If ``license`` is not an identifier.
    """
    target = Repository.parse(repository)
    if not _LICENCE.fullmatch(license):
        raise RecipeError(
            f"The licence is '{shortened(license)}'.",
            "Expected the hub's identifier of one, such as 'cc-by-4.0', 'mit' or 'other'.",
            "See https://huggingface.co/docs/hub/repositories-licenses.",
        )
    with tempfile.TemporaryDirectory(prefix="semlens-") as folder:
        published = published_files(
            database, Path(folder), crops=crops, results=results, audits=audits
        )
        # words for the places of a map need the embedder, so a failure to load it comes first
        picture = _map_picture(database, published) if draw_map else None
        card = dataset_card(target, published, license, with_map=picture is not None)
        additions = {name: CommitOperationAdd(name, p) for name, p in published.files.items()}
        additions[CARD] = CommitOperationAdd(CARD, card.encode())
        if picture is not None:
            additions[MAP] = CommitOperationAdd(MAP, picture)
        api = HfApi()
        with hub_errors(target):
            api.create_repo(target.name, repo_type="dataset", private=private, exist_ok=True)
            if target.revision is not None:
                api.create_branch(
                    target.name, branch=target.revision, repo_type="dataset", exist_ok=True
                )
            there = api.list_repo_files(target.name, repo_type="dataset", revision=target.revision)
            stale = [name for name in there if is_of_database(name) and name not in additions]
            commit = api.create_commit(
                target.name,
                [*additions.values(), *(CommitOperationDelete(name) for name in stale)],
                commit_message=message or f"Database {published.fingerprint[:12]}",
                repo_type="dataset",
                revision=target.revision,
            )
        return Pushed(
            target.url,
            f"{api.endpoint}/datasets/{target.name}",
            commit.oid,
            published.fingerprint,
            len(additions),
            published.size,
            sum(published.manifest.crops) * published.crops,
        )


def is_of_database(name: str) -> bool:
    """Whether a file of a repository is one that a database may have, and so may be replaced."""
    folders = (*file_names.BUILD_FOLDERS, file_names.ANALYSIS)
    single = (
        MANIFEST_NAME, file_names.COMPONENTS, file_names.SAMPLES, file_names.REFERENCE,
        file_names.RELEVANCE_CLASSES, MAP,
    )  # fmt: skip
    return name in single or name.partition("/")[0] in folders and "/" in name


def _map_picture(database: Database, published: Published) -> bytes | None:
    """Return a picture of the map, without crops if these are not published; None if it is large.

    The map is that of the database: its positions are kept there.
    """
    if database.manifest.rows > MOST_ON_MAP:
        return None
    from semlens.draw.map_plot import draw_map  # matplotlib is imported only when it draws

    drawn = concept_map(database)
    picture = drawn.picture()
    if not published.crops:
        picture = replace(picture, crop=None)
    title = f"{len(drawn)} components of {published.manifest.model.spec}"
    figure = draw_map(picture, drawn.colouring, title, [])
    stream = io.BytesIO()
    figure.savefig(stream, format="webp", dpi=100)
    return stream.getvalue()
