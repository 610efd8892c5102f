"""The verbs of a session: build a database, open one, ask it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

import pandas as pd

from semlens.analysis.audit.kept import KeptAudits
from semlens.analysis.concepts import ConceptSet
from semlens.analysis.describe.dissect import Dissection, dissect
from semlens.analysis.describe.map import ConceptMap, concept_map
from semlens.analysis.describe.unexpected import Unexpected, unexpected
from semlens.analysis.label import THRESHOLD, Labels, label
from semlens.analysis.probe import SEARCH_TEMPLATES, ImageLike
from semlens.analysis.scores import Scores, scores
from semlens.analysis.search import Hits, search
from semlens.analysis.target import find_class
from semlens.data.images import Images
from semlens.data.load import load_images
from semlens.data.sequence import ImageSequence
from semlens.data.targets import UnmappedWarning, map_targets, read_classes
from semlens.embedders.base import Embedder
from semlens.embedders.load import load_embedder
from semlens.models.load import load_model
from semlens.models.subject import SubjectModel
from semlens.recipe import Recipe, RecipeSettings
from semlens.run.local import build_database
from semlens.run.plan import Execution, Plan, Progress
from semlens.store.once import once
from semlens.store.reader import Database
from semlens.types import Component


class ConceptDatabase(Database):
    """A database, with what people ask of it as methods.

    Text and image probes need the embedder that the database was built with. It is loaded
    again by its SPEC on first use, or given as ``embedder``.

    Examples
    --------
    >>> import semlens as sl
    >>> db = sl.open("demo.semlens")                               # doctest: +SKIP
    >>> db.search("watermark", top=3).components                   # doctest: +SKIP
    """

    def load_model(self, spec: str | None = None, device: str = "cpu") -> SubjectModel:
        """Load the subject model again and verify it; code is run only if given as ``spec``."""
        model = load_model(
            spec or self.manifest.model.spec, device=device, run_files=spec is not None
        )
        self.check_model(model)
        return model

    def load_images(self, spec: str | Path | None = None) -> Images:
        """Load the images again and verify their hashes."""
        images = load_images(spec or self.manifest.data.spec)
        self.check_images(images)
        return images

    def search(
        self,
        *texts: str,
        images: Sequence[ImageLike] = (),
        like: Sequence[Component | str] = (),
        without: Sequence[str] = (),
        without_images: Sequence[ImageLike] = (),
        unlike: Sequence[Component | str] = (),
        top: int = 10,
        offset: int = 0,
        layers: Sequence[str] | None = None,
        templates: Sequence[str] = SEARCH_TEMPLATES,
    ) -> Hits:
        """Rank components by texts, images, other components or a mixture.

        See :func:`semlens.analysis.search`.
        """
        return search(
            self,
            None,
            texts,
            images,
            like=self._rows_of(like),
            without=without,
            without_images=without_images,
            unlike=self._rows_of(unlike),
            top=top,
            offset=offset,
            layers=layers,
            templates=templates,
        )

    def label(
        self,
        concepts: ConceptSet | str | Path = "paper-vocabulary",
        *,
        layers: Sequence[str] | None = None,
        threshold: float = THRESHOLD,
        candidates: int = 3,
    ) -> Labels:
        """Label components with a concept set, a file of one, or the name of a bundled one."""
        chosen = concepts if isinstance(concepts, ConceptSet) else ConceptSet.load(concepts)
        return label(
            self,
            self.embedder,
            chosen,
            layers=layers,
            threshold=threshold,
            candidates=candidates,
        )

    def unexpected(
        self,
        target: int | str,
        concepts: ConceptSet | str | Path = "paper-vocabulary",
        *,
        layers: Sequence[str] | None = None,
        threshold: float | None = None,
        minimum: float = 0.01,
        top: int | None = None,
    ) -> Unexpected:
        """Find what a class relies on and no concept describes.

        See :func:`semlens.analysis.describe.unexpected.unexpected`.
        """
        chosen = concepts if isinstance(concepts, ConceptSet) else ConceptSet.load(concepts)
        return unexpected(
            self,
            target,
            chosen,
            layers=layers,
            threshold=threshold,
            minimum=minimum,
            top=top,
        )

    @once
    def audits(self) -> KeptAudits:
        """The audits that were saved in the database, with people's reviews."""
        return KeptAudits(self)

    def map(self, layers: Sequence[str] | None = None, **settings: Any) -> ConceptMap:
        """Lay out the components by concept, with labelled clusters.

        Settings and errors are those of :func:`semlens.concept_map`.
        """
        return concept_map(self, layers=layers, **settings)

    def dissect(
        self, concepts: ConceptSet | str | Path = "paper-vocabulary", **settings: Any
    ) -> Dissection:
        """Count components by label and category, and name the concepts that none carries.

        ``settings`` are those of :func:`semlens.dissect`: ``layers``, ``target``, ...
        """
        chosen = concepts if isinstance(concepts, ConceptSet) else ConceptSet.load(concepts)
        return dissect(self, chosen, **settings)

    def class_relevance(
        self, target: int | str, *, top: int = 20, layers: Sequence[str] | None = None
    ) -> pd.DataFrame:
        """Return the components that matter most for a class: component, layer, mean, max.

        Sorted by the mean share of the layer's relevance (see :meth:`relevance`).
        """
        found = self.relevance(find_class(self, target), layers)
        found = found.nlargest(top, "mean")
        parts = [self.component(int(row)) for row in found["component"]]
        return pd.DataFrame(
            {
                "component": [str(part) for part in parts],
                "layer": [part.layer for part in parts],
                "mean": found["mean"].to_numpy(),
                "max": found["max"].to_numpy(),
            }
        )

    def scores(self, layers: Sequence[str] | None = None) -> Scores:
        """Return clarity, redundancy and polysemanticity of the components."""
        return scores(self, layers)

    def show(
        self, components: Sequence[Component | str], columns: int = 10, *, mask: bool = False
    ) -> Any:
        """Return a picture of components' examples, a row each (``PIL.Image``).

        With ``mask``, what is under 2 % of the heatmap's maximum is darkened (paper, H.1).
        """
        from semlens.draw.sheet import sheet

        return sheet(self, self._rows_of(components), columns, mask=mask)

    def _rows_of(self, components: Sequence[Component | str]) -> list[int]:
        parsed = [c if isinstance(c, Component) else Component.parse(c) for c in components]
        return [self.row(component) for component in parsed]

    def summary(self) -> pd.DataFrame:
        """Return one row per layer: components, signs, those without examples."""
        components = self.components
        rows: list[dict[str, Any]] = []
        for layer in self.manifest.layers:
            part = components.iloc[layer.first : layer.first + layer.rows]
            rows.append(
                {
                    "layer": layer.name,
                    "form": layer.form,
                    "components": layer.rows,
                    "signs": "both" if layer.rows > layer.channels else "+",
                    "crop": layer.crop,
                    "without_examples": int((part["examples"] == 0).sum()),
                    "not_finite": layer.not_finite,
                }
            )
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        """Return what the database holds as text."""
        m = self.manifest
        return (
            f"ConceptDatabase('{self.path}')\n"
            f"{m.rows} components of {m.model.spec}, {m.samples} images of {m.data.spec},\n"
            f"embedded by {m.embedder.spec}\n{self.summary().to_string(index=False)}"
        )

    def _repr_html_(self) -> str:
        """Return a summary with pictures for notebooks."""
        from semlens.draw.html import database_html

        return database_html(self)


def build(
    path: str | Path,
    model: SubjectModel | str,
    images: Images | str | Path | Sequence[Any],
    embedder: Embedder | str,
    layers: Sequence[str],
    *,
    classes: str | Path | None = None,
    targets: Sequence[str] | None = None,
    relevance: bool = False,
    execution: Execution | None = None,
    progress: Progress = lambda *_: None,
    recipe: Recipe | None = None,
    **settings: Unpack[RecipeSettings],
) -> ConceptDatabase:
    """Build a concept database, or go on with one, or add layers or other classes to one.

    Parameters
    ----------
    path
        The database's folder.
    model, images, embedder
        Objects, or SPECs to load; images may be a list too.
    layers
        Names as in ``named_modules``.
    classes
        File that maps class names of the data to logits.
    targets
        Class name of each sample, instead of the data's own.
    relevance
        Whether to compute how much each component matters for each class, too. It can be
        added later by the same call.
    recipe
        The settings; :class:`semlens.Recipe` says what there is.
    settings
        Single ones by name, in place of the recipe's: ``examples=20``, ``crop="none"``, ...

    Notes
    -----
    A database that is there keeps the classes of its images, unless ``classes`` or ``targets``
    are given and differ. Then samples get these, and its class relevance is computed anew; its
    vectors stay.

    Examples
    --------
    >>> import semlens as sl
    >>> db = sl.build("r18.semlens", "torchvision/resnet18:DEFAULT", "photos/",
    ...               "semlens/demo", layers=["layer4"])           # doctest: +SKIP
    """
    subject = load_model(model) if isinstance(model, str) else model
    data = _as_images(images)
    foundation = load_embedder(embedder) if isinstance(embedder, str) else embedder
    mapping = read_classes(Path(classes)) if classes is not None else None
    names = data.targets if targets is None else targets
    mapped = map_targets(names, len(data), subject.classes, subject.synsets, mapping)
    if mapped.notice:
        warnings.warn(mapped.notice, UnmappedWarning, stacklevel=2)
    plan = Plan(
        subject,
        data,
        foundation,
        tuple(layers),
        (recipe or Recipe()).but(**settings),
        execution or Execution(),
        mapped,
        relabel=not (classes is None and targets is None),
        relevance=relevance,
    )
    build_database(Path(path).expanduser(), plan, progress)
    return ConceptDatabase(path, foundation)


def _as_images(images: Images | str | Path | Sequence[Any]) -> Images:
    if isinstance(images, Images):
        return images
    return load_images(images) if isinstance(images, str | Path) else ImageSequence(images)


def open_database(path: str | Path, embedder: Embedder | None = None) -> ConceptDatabase:
    """Open a finished database (``semlens.open``).

    Raises
    ------
    StoreError
        If there is none, or it is unfinished.
    StaleError
        If ``embedder`` is not the one it was built with.
    """
    return ConceptDatabase(path, embedder)
