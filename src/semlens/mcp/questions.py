"""The questions as tools: search, explain, audit, contrast, compare and effect."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

from semlens.lenses.arguments import find_optional_class
from semlens.lenses.audit.audit import audit as ask_audit
from semlens.lenses.compare.compare import compare as ask_compare
from semlens.lenses.concepts import ConceptSet
from semlens.lenses.contrast.contrast import contrast as ask_contrast
from semlens.lenses.effect import effect as ask_effect
from semlens.lenses.explain import explain as ask_explain
from semlens.lenses.resolve_concepts import sets_for
from semlens.lenses.result import Result
from semlens.lenses.search.search import search as ask_search
from semlens.mcp.image_access import ImageName
from semlens.mcp.tool import DATABASES, Call, DatabaseName, retyped, tool
from semlens.settings import setting
from semlens.types import as_components, as_list

_DATABASE: Any = (DatabaseName, None)
_Names = Annotated[list[str], setting("Components, such as layer4:17.")]
_Group = list[ImageName] | str
_TECHNICAL = ("rules", "batch_size")
_READS_FILES = ("concepts", "background", "metadata", "column")
"""Settings that take the path of any file."""


@tool(
    ask_search,
    query=(
        Annotated[
            str | list[str], setting("What to look for, in words; several texts are averaged.")
        ],
        ...,
    ),
    like=(Annotated[list[str], setting("Components that the hits should resemble.")], ()),
    unlike=(Annotated[list[str], setting("Components that they should not resemble.")], ()),
    database=_DATABASE,
)
def search(call: Call) -> Result:
    """Find the components of the model that stand for something: rank them by a text.

    Each hit has its alignment with the text and the noise that it must exceed. The picture shows
    the strongest example images of each hit.
    """
    return ask_search(
        call.db,
        *as_list(call["query"]),
        like=as_components(call["like"]),
        unlike=as_components(call["unlike"]),
        **call.settings(ask_search),
    )


@tool(
    ask_explain,
    without=("concepts", "without", *_TECHNICAL),
    image=(ImageName, ...),
    target=retyped(ask_explain, "target", int | str | None),
    ablated=(
        Annotated[list[str], setting("Components to set to zero first, such as layer4:17.")],
        (),
    ),
    database=_DATABASE,
)
def explain(call: Call) -> Result:
    """Explain one prediction: scores, and the relevance of components in each layer.

    The picture shows the image, where the prediction comes from, and for each component its region
    and its examples. With `ablated`, the prediction is that without these components.
    """
    picture, name = call.images.read(call.db, call["image"])
    without = as_components(call["ablated"])
    return ask_explain(call.db, picture, name=name, without=without, **call.settings(ask_explain))


@tool(
    ask_audit,
    without=("threshold", *_READS_FILES),
    valid=(Annotated[list[str], setting("What the class should rely on, in words.")], ()),
    spurious=(Annotated[list[str], setting("What it should not rely on, in words.")], ()),
    concept_sets=(
        Annotated[
            list[str],
            setting(
                "Names of bundled concept sets, or audit:NUMBER for the lists of a saved audit "
                "[the sets for the class, unless valid or spurious concepts are given]."
            ),
        ],
        (),
    ),
    database=_DATABASE,
)
def audit(call: Call) -> Result:
    """Audit whether a class relies on valid or on spurious concepts.

    Each relevant component gets a verdict: valid, spurious, both or unexpected. P-values compare
    with random concepts and, for the alarm, with the other classes.
    """
    target = find_optional_class(call.db, call["target"])
    sets = sets_for(call.db, call["concept_sets"], target, files=False)
    if call["valid"] or call["spurious"]:
        name = "concepts of this call"
        sets.append(ConceptSet.of(name=name, valid=call["valid"], spurious=call["spurious"]))
    return ask_audit(call.db, concepts=sets or None, **call.settings(ask_audit))


@tool(
    ask_contrast,
    without=("concepts", *_TECHNICAL, *_READS_FILES),
    a=(
        Annotated[
            _Group | None,
            setting(
                "Images: samples and files of the allowed folder in a list, or a folder below it."
            ),
        ],
        None,
    ),
    b=(
        Annotated[_Group | None, setting("Images to compare with [the database's other images].")],
        None,
    ),
    database=_DATABASE,
)
def contrast(call: Call) -> Result:
    """Compare two groups of images: the components and logits that tell them apart.

    Give a and b, or `errors` for the model's errors on a class against its correct predictions.
    P-values are family-wise; folders whose files have equal names are compared pair by pair.
    """
    given = {letter: call[letter] for letter in ("a", "b") if call[letter] is not None}
    settings = call.settings(ask_contrast)
    for letter, images in given.items():
        settings[letter] = call.images.group(call.db, images)
    result = ask_contrast(call.db, **settings)
    folders = {letter: name for letter, name in given.items() if isinstance(name, str)}
    if call["errors"] is not None:  # which names the groups
        return result
    named = {letter: replace(getattr(result, letter), name=n) for letter, n in folders.items()}
    return replace(result, **named)


@tool(
    ask_compare,
    without=("concepts",),
    databases=DATABASES,
)
def compare(call: Call) -> Result:
    """Compare what models have learned, or with `by_layer` the layers of models.

    Gives the similarity of the sets of components, pairs of most similar components, and the
    components of one that have no counterpart in the other. All need the same embedder.
    """
    return ask_compare(call.several, **call.settings(ask_compare))


@tool(
    ask_effect,
    without=("concepts", *_TECHNICAL),
    target=retyped(ask_effect, "target", int | str),
    components=retyped(ask_effect, "components", _Names | None),
    samples=retyped(ask_effect, "samples", Annotated[int, setting("", ge=1)]),
    images=(
        Annotated[
            list[ImageName] | None,
            setting("Images instead of those of the class: samples, or files of the folder."),
        ],
        None,
    ),
    database=_DATABASE,
)
def effect(call: Call) -> Result:
    """Ablate components, and measure how a class's logit changes and whether relevance foretold it.

    The effect is the logit with the component minus the logit without it, over images of the class:
    a positive one speaks for the class.
    """
    settings = call.settings(ask_effect)
    if call["images"] is not None:
        group = call.images.group(call.db, call["images"])
        if isinstance(group, list) and isinstance(group[0], int):
            settings["samples"] = group
        else:
            settings["images"] = group
    return ask_effect(call.db, **settings)
