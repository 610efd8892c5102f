"""The main API: build a database, open it, and ask questions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pandas as pd
from PIL import Image

from semlens.analysis.questions import Questions
from semlens.data.class_mapping import UnmappedWarning, map_targets, read_classes
from semlens.data.images import Images
from semlens.data.load import as_images
from semlens.data.own_boxes import load_boxes
from semlens.dictionaries.request import OWN, parse_components
from semlens.draw.example_sheet import sheet
from semlens.embedders.embedder import Embedder
from semlens.embedders.load import load_embedder
from semlens.models.load import load_model
from semlens.models.subject import SubjectModel
from semlens.notebook.extra import check_extra
from semlens.progress import Progress, progress_bars, progress_listener
from semlens.recipe import Recipe, RecipeSettings
from semlens.regular_files import user_path
from semlens.run.build_database import build_database
from semlens.run.executors.executor import Executor
from semlens.run.executors.parse import parse_executor
from semlens.run.extend import Addition, Extension, extend_database
from semlens.run.own_boxes import check_boxes
from semlens.run.plan import Execution, Plan
from semlens.store.locked_cached_property import locked_cached_property
from semlens.types import Component, Components, Layers

if TYPE_CHECKING:
    from semlens.analysis.audit.saved_audits import SavedAudits
    from semlens.analysis.describe.projector import ProjectorFolder
    from semlens.analysis.labelling.imported_labels import ImportedLabels
    from semlens.hub.push import Pushed
    from semlens.notebook.card_widget import CardWidget
    from semlens.notebook.map_widget import MapWidget
else:  # imported on first use
    SavedAudits = ImportedLabels = ProjectorFolder = Pushed = object
    CardWidget = MapWidget = object


class ConceptDatabase(Questions):
    """A database with every question as a method: ``db.scores()`` is ``semlens.scores(db)``.

    The model, the images and the embedder are loaded when a question first needs them; pass
    their locations to ``semlens.open`` if they have moved.

    Examples
    --------
    >>> import semlens as sl
    >>> db = sl.open("demo.semlens")                               # doctest: +SKIP
    >>> db.search("watermark", top=3).components                   # doctest: +SKIP
    """

    @locked_cached_property
    def audits(self) -> SavedAudits:
        """Audits that are saved in the database, with their reviews."""
        from semlens.analysis.audit.saved_audits import SavedAudits

        return SavedAudits(self)

    def show(self, components: Components, columns: int = 10, *, mask: bool = False) -> Image.Image:
        """Return a picture of components' examples, one row each.

        With ``mask``, areas below 2 % of the heatmap's maximum are darkened (paper, H.1).
        """
        return sheet(self, self.rows_of(components), columns, mask=mask)

    def map_widget(
        self, layers: Layers = None, *, colour: str = "layer", height: int = 460, **settings: Any
    ) -> MapWidget:
        """Return an interactive map for a notebook; see its ``selected`` and ``colour_by``.

        Parameters
        ----------
        layers, settings
            As for :func:`semlens.concept_map`.
        colour
            ``layer``, ``place``, ``clarity``, ``redundancy`` or ``polysemanticity``.
        height
            In pixels.

        Raises
        ------
        ServeError
            If the extra ``notebook`` is not installed.
        """
        check_extra()
        from semlens.notebook.map_widget import MapWidget

        return MapWidget(self.concept_map(layers=layers, **settings), colour=colour, height=height)

    def card_widget(self, component: Component | str | None = None) -> CardWidget:
        """Return an interactive card for a notebook, whose ``component`` can be changed.

        Raises
        ------
        ServeError
            If the extra ``notebook`` is not installed.
        LayerError
            If there is no such component.
        """
        check_extra()
        from semlens.notebook.card_widget import CardWidget

        return CardWidget(self, component)

    def read_labels(self, file: str | Path, *, layer: str | None = None) -> ImportedLabels:
        """Read labels of CLIP-Dissect or Neuronpedia; ``save_to_database`` puts them to use.

        See :func:`semlens.analysis.labelling.imported_labels.read_labels`.
        """
        from semlens.analysis.labelling.imported_labels import read_labels

        return read_labels(self, file, layer=layer)

    def save_projector(
        self, folder: str | Path, layers: Layers = None, *, crops: bool = True
    ) -> ProjectorFolder:
        """Write concept vectors, labels and crops for the projector of TensorBoard.

        See :func:`semlens.analysis.describe.projector.save_projector`.
        """
        from semlens.analysis.describe.projector import save_projector

        return save_projector(self, folder, layers, crops=crops)

    def push_to_hub(
        self,
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
        from semlens.hub.push import push

        return push(
            self, repository, license=license, crops=crops, private=private, results=results,
            audits=audits, draw_map=draw_map, message=message,
        )  # fmt: skip

    def summary(self) -> pd.DataFrame:
        """Return one row per layer: form, components, signs, crop, components without examples.

        If examples are cropped to boxes of yours, ``without_box`` is the number of examples that
        are whole images because no box is where the component reacts most.
        """
        components = self.components
        rows: list[dict[str, Any]] = []
        for layer in self.manifest.layers:
            layer_components = components.iloc[layer.first : layer.first + layer.rows]
            rows.append(
                {
                    "layer": layer.name,
                    "form": layer.form,
                    "components": layer.rows,
                    "signs": "both" if layer.rows > layer.channels else "+",
                    "crop": layer.crop,
                    "without_examples": int((layer_components["examples"] == 0).sum()),
                    **({} if layer.without_box is None else {"without_box": layer.without_box}),
                    "not_finite": layer.not_finite,
                }
            )
        return pd.DataFrame(rows)

    def __repr__(self) -> str:
        """Return the database's identity and layers as text."""
        m = self.manifest
        return (
            f"ConceptDatabase('{self.path}')\n"
            f"{m.rows} components of {m.model.spec}, {m.samples} images of {m.data.spec},\n"
            f"embedded by {m.embedder.spec}\n{self.summary().to_string(index=False)}"
        )

    def _repr_html_(self) -> str:
        """Return what it is made of, with examples, for notebooks; it never fails."""
        from semlens.draw.notebook_html import database_html, guarded_html

        return guarded_html(lambda: database_html(self, self.summary()), self)


def build(
    path: str | Path,
    model: SubjectModel | str,
    images: Images | str | Path | Sequence[Any],
    embedder: Embedder | str,
    layers: Sequence[str],
    *,
    components: str | Sequence[str] = OWN,
    classes: str | Path | None = None,
    targets: Sequence[str] | None = None,
    boxes: str | Path | None = None,
    relevance: bool = False,
    extendable: bool = False,
    execution: Execution | None = None,
    executor: Executor | str | None = None,
    progress: Progress | None = None,
    recipe: Recipe | None = None,
    **settings: Unpack[RecipeSettings],
) -> ConceptDatabase:
    """Build, resume or extend a concept database.

    A second call with the same recipe resumes an unfinished build, or adds layers, classes or
    class relevance to a finished database.

    Parameters
    ----------
    path
        The database's folder.
    model, images, embedder
        Objects, or SPECs to load; images may also be a list.
    layers
        Names as in ``named_modules``.
    components
        What is read of each layer: ``channels`` (its own components), directions that are fitted,
        such as ``nmf:16``, or those of a file, such as ``sae:FILE``; several as a list or
        separated by commas.
    classes
        File that maps class names of the data to logits.
    targets
        Class name of each sample, which replaces the data's own.
    boxes
        CSV or Parquet file with the columns ``image`` (id in the data), ``x0``, ``y0``, ``x1``,
        ``y1`` in pixels of the upright originals, for ``crop="boxes"``.
    relevance
        Whether to compute the relevance of each component for each class. It can be added
        later by the same call.
    extendable
        Whether to keep the state of the statistics, so that :func:`extend` can add images.
    executor
        What computes: ``"processes:4"``, ``"ray"`` or ``"ray://HOST:PORT"``; by default this
        process. It does not change the result.
    progress
        Called with stage, samples done and their total, instead of progress bars on standard
        error.
    recipe
        The settings, see :class:`semlens.Recipe`.
    settings
        Settings by name that override the recipe: ``examples=20``, ``crop="none"``, ...

    Notes
    -----
    An existing database keeps the classes of its images, unless ``classes`` or ``targets`` are
    given and differ. In that case the classes are replaced and class relevance is recomputed;
    vectors do not change.

    Examples
    --------
    >>> import semlens as sl
    >>> db = sl.build("r18.semlens", "torchvision/resnet18:DEFAULT", "photos/",
    ...               "semlens/demo", layers=["layer4"])           # doctest: +SKIP
    """
    plan = make_plan(
        model,
        images,
        embedder,
        layers,
        components=components,
        classes=classes,
        targets=targets,
        boxes=boxes,
        relevance=relevance,
        extendable=extendable,
        execution=_with_executor(execution or Execution(), executor),
        recipe=recipe,
        **settings,
    )
    with progress_listener(progress) if progress else progress_bars():
        build_database(user_path(path), plan)
    return ConceptDatabase(path, model=plan.model, images=plan.images, embedder=plan.embedder)


def _with_executor(execution: Execution, executor: Executor | str | None) -> Execution:
    if isinstance(executor, str):
        executor = parse_executor(executor)
    return execution if executor is None else replace(execution, executor=executor)


def make_plan(
    model: SubjectModel | str,
    images: Images | str | Path | Sequence[Any],
    embedder: Embedder | str,
    layers: Sequence[str],
    *,
    components: str | Sequence[str] = OWN,
    classes: str | Path | None = None,
    targets: Sequence[str] | None = None,
    boxes: str | Path | None = None,
    relevance: bool = False,
    extendable: bool = False,
    execution: Execution | None = None,
    recipe: Recipe | None = None,
    **settings: Unpack[RecipeSettings],
) -> Plan:
    """Return the plan of a build; the arguments are those of :func:`build`."""
    subject = load_model(model) if isinstance(model, str) else model
    data = as_images(images)
    mapping = read_classes(Path(classes)) if classes is not None else None
    names = data.targets if targets is None else targets
    mapped = map_targets(names, len(data), subject.classes, subject.synsets, mapping)
    if mapped.notice:
        warnings.warn(mapped.notice, UnmappedWarning, stacklevel=3)
    values: dict[str, Any] = {**(recipe or Recipe()).model_dump(), **settings}
    settled = Recipe(**values)
    check_boxes(settled, given=boxes is not None)
    if isinstance(embedder, str):
        read = subject if settled.layout == "auto" else replace(subject, layout=settled.layout)
        embedder = load_embedder(embedder, model=read)
    execution = (execution or Execution()).for_source(data)
    own, requests = parse_components(components)
    names_of_layers = [*layers] if own else []
    names_of_layers += [request.name(layer) for layer in layers for request in requests]
    return Plan(
        subject,
        data,
        embedder,
        tuple(names_of_layers),
        settled,
        execution,
        mapped,
        relabel=not (classes is None and targets is None),
        relevance=relevance,
        dictionaries=tuple((layer, request) for layer in layers for request in requests),
        boxes=load_boxes(boxes, data.ids) if boxes is not None else None,
        extendable=extendable,
    )


def extend(
    path: str | Path,
    images: Images | str | Path | Sequence[Any],
    *,
    model: SubjectModel | str | None = None,
    data: Images | str | Path | None = None,
    embedder: Embedder | str | None = None,
    classes: str | Path | None = None,
    targets: Sequence[str] | None = None,
    device: str | None = None,
    execution: Execution | None = None,
    executor: Executor | str | None = None,
    recompute_crops: bool = False,
    boxes: str | Path | None = None,
    progress: Progress | None = None,
) -> Extension:
    """Add images to a database that was built with ``extendable=True``, in place.

    The result has the same bytes as a build over all the images, as :class:`semlens.JoinedImages`,
    with the batch size of the database. If it is interrupted, the same call continues.

    Parameters
    ----------
    path
        The database's folder.
    images
        The new images: an object, a SPEC or a list.
    model, data, embedder
        Objects or SPECs that replace those recorded in the database; ``data`` are its images.
    classes, targets
        Classes of the new images, as for :func:`build`; those of the others stay.
    device
        By default that of the build; another type is refused.
    execution, executor, progress
        See :func:`build`.
    recompute_crops
        Compute all crops, rather than check a few and take over the others.
    boxes
        File of boxes for ``crop="boxes"``, of old and new images; by default that of the build,
        read again. Images of the database must have the same boxes as before.

    Raises
    ------
    RecipeError
        If it was not built with ``extendable=True``, the device is of another type, or it has
        these images already.
    StaleError
        If images of the database are missing or have changed.

    Examples
    --------
    >>> import semlens as sl
    >>> sl.extend("photos.semlens", "photos-of-may/").samples      # doctest: +SKIP
    """
    addition = Addition(
        as_images(images),
        model,
        data,
        embedder,
        read_classes(Path(classes)) if classes is not None else None,
        targets,
        device,
        _with_executor(execution or Execution(), executor),
        recompute_crops,
        boxes,
    )
    with progress_listener(progress) if progress else progress_bars():
        return extend_database(user_path(path), addition)


def open(  # noqa: A001  # it is semlens.open
    path: str | Path,
    *,
    model: SubjectModel | str | None = None,
    images: Images | str | Path | None = None,
    embedder: Embedder | str | None = None,
    device: str = "cpu",
) -> ConceptDatabase:
    """Open a finished database.

    Parameters
    ----------
    path
        Its folder, or its URL, such as ``s3://bucket/x.semlens`` or
        ``hf://datasets/USER/NAME@REVISION``: files are copied on first use.
    model, images, embedder
        Objects or SPECs that replace those recorded in the database.
    device
        Device of the model and the embedder.

    Raises
    ------
    StoreError
        If there is no database, or it is unfinished.
    StaleError
        If the model or the embedder differs from that of the build.
    """
    return ConceptDatabase(path, model=model, images=images, embedder=embedder, device=device)


def pull(
    source: str, folder: str | Path | None = None, *, progress: Progress | None = None
) -> ConceptDatabase:
    """Copy a published database into a folder of this machine, and open it.

    Every file is compared with its SHA-256 in the manifest, which is written last. If it is
    interrupted, the same call continues with the files that are missing.

    Parameters
    ----------
    source
        ``USER/NAME`` or ``USER/NAME@REVISION`` on the Hugging Face Hub, a URL, or the name of a
        bundled recipe whose database has been published.
    folder
        New folder; by default the name of the database in the current folder.
    progress
        Called with stage, files done and their total, instead of progress bars.

    Raises
    ------
    StoreError
        If there is no such database, you may not read it, a file is damaged, or the folder has
        other files.

    Examples
    --------
    >>> import semlens as sl
    >>> db = sl.pull("ada/resnet50-concepts")                      # doctest: +SKIP
    """
    from semlens.hub.pull import pull_database

    with progress_listener(progress) if progress else progress_bars():
        return ConceptDatabase(pull_database(source, folder))
