"""Hypothesis strategies for inputs that are nearly right: damaged bytes, odd JSON, odd texts."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import numpy as np
import pandas as pd
from hypothesis import strategies as st
from PIL import Image

import semlens as sl
from benchmarks.cases.fuzz.hostile import HOSTILE_TOML, csv_first, hostile_json
from benchmarks.worlds.tiny import CONCEPTS, Inputs
from semlens.errors import SemlensError
from semlens.progress import progress_listener

ODD_TEXTS = (
    "", " ", "0", "-1", "1.5", "1e999", "NaN", "inf", "true", "null", "9" * 30, "\0", "\n", "é",
    "a" * 3000, "../../etc/passwd", "%2e%2e", "{}", "[]", "🦊", "\u202e", "first:1", "first:-0",
    "first:99999999999", "ape", "second", "datasets/", "semlens/", ":", "/", "//", "~", "~nobody",
    "file.py:", "*", "'; --", "<b>", "\ud800", "٣",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2, 7, 255, 2**31 - 1, 2**31, -(2**31), 2**63, 10**30, 0.5, -0.0, 1e308)

odd_texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=8)
scalars = st.none() | st.booleans() | st.sampled_from(NUMBERS) | odd_texts
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged_bytes(draw: st.DrawFn, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """Return one of the seeds after up to five changes at random places."""
    data = bytearray(draw(st.sampled_from(list(seeds))))
    for _ in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(("bit", "byte", "cut", "end", "repeat", "insert", "token")))
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(1, 16))
        if kind == "bit" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and at < len(data):
            data[at] = draw(st.sampled_from((0, 1, 127, 128, 255)))
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "end":
            del data[at:]
        elif kind == "repeat":
            data[at:at] = data[at : at + length] * draw(st.integers(1, 40))
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=length))
        elif tokens:
            data[at:at] = draw(st.sampled_from(list(tokens)))
    return bytes(data)


@st.composite
def damaged_json(draw: st.DrawFn, seed: Any) -> bytes:
    """Return a JSON document in which up to three values are others, missing or misplaced."""
    document = json.loads(json.dumps(seed))
    for _ in range(draw(st.integers(1, 3))):
        parent, key = document, None
        while isinstance(parent, dict | list) and parent:
            keys = list(parent) if isinstance(parent, dict) else range(len(parent))
            key = draw(st.sampled_from(list(keys)))
            child = parent[key]
            if not (isinstance(child, dict | list) and child) or draw(st.booleans()):
                break
            parent = child
        if key is None:
            continue
        if draw(st.integers(0, 3)) == 0:
            del parent[key]
        else:
            parent[key] = draw(json_values)
    return json.dumps(document).encode("utf-8", "surrogatepass")


Strategy = st.SearchStrategy[Any]


@dataclass(frozen=True)
class Reader:
    """Something that reads an input or refuses it.

    Parameters
    ----------
    inputs
        Strategy of inputs.
    read
        Reads an input; may raise :class:`SemlensError` and nothing else.
    mib
        Bound on the memory that one input may take.
    first
        Inputs that are tried in any case, before those of the strategy.
    """

    inputs: Strategy
    read: Callable[[Any], object]
    mib: float = 128
    first: Sequence[Any] = ()


def on_file(folder: Path, name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return a function that writes bytes to a file and reads it."""

    def read_bytes(data: bytes) -> object:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return read_bytes


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return an image as a file of a format of Pillow."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _pictures() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 4), np.uint8)
    colour, grey = Image.fromarray(pixels[..., :3]), Image.fromarray(pixels[..., 0])
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        *(encoded(colour, kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "PPM", "GIF")),
        encoded(colour, "JPEG", exif=exif),
        encoded(colour, "JPEG2000"),
        encoded(colour.convert("CMYK"), "JPEG"),
        encoded(colour.convert("P"), "PNG", transparency=3),
        encoded(Image.fromarray(pixels), "PNG"),
        encoded(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257), "PNG"),
        encoded(grey, "TIFF", compression="tiff_lzw"),
    ]


def file_readers(folder: Path) -> dict[str, Reader]:
    """Return the readers of single files and texts."""
    from semlens.cli.build_inputs import read_config
    from semlens.data.class_mapping import read_classes, read_targets
    from semlens.data.images import decode, upright_size
    from semlens.data.load import load_images
    from semlens.embedders.load import load_embedder
    from semlens.lenses.concepts import ConceptSet
    from semlens.models.load import load_model
    from semlens.store.atomic_files import (
        load_sealed,
        load_sealed_table,
        load_tensors,
        save_sealed,
        save_sealed_table,
    )
    from semlens.types import Component

    huggingface_hub.constants.HF_HUB_OFFLINE = True  # a SPEC may name anything

    json_set = {
        "target": "ape", "name": "n", "templates": ["a {}"],
        "concepts": {"red": {}, "animals": ["cat", "dog"], "deep": {"deeper": ["x"]}},
        "valid": ["red"], "spurious": {"blue": ["navy"]},
    }  # fmt: skip
    csv = b"concept,kind,category\nred,valid,colours\nblue,spurious,\ncat,,animals/pets\n"
    tokens = [
        b"[",
        b"]]",
        b"{",
        b'"',
        b"'''",
        b"\n",
        b",",
        b"=",
        b"\0",
        b"\xff",
        b"#",
        b"a.b = 1\n",
    ]
    table = _frame()
    save_sealed_table(folder / "table.parquet", table)
    save_sealed(folder / "tensors.safetensors", {"a": _tensor(), "b": _tensor().half()})
    save_sealed_table(folder / "other.parquet", table)
    save_sealed(folder / "other.safetensors", {"a": _tensor()})
    other = (folder / "other.parquet").read_bytes()
    other_shard = (folder / "other.safetensors").read_bytes()
    sealed = (folder / "table.parquet").read_bytes()
    shard = (folder / "tensors.safetensors").read_bytes()

    def load_shard(path: Path) -> None:
        tensors = load_sealed(path)
        if tensors is None:
            raise SemlensError(f"'{path}' is damaged.", "It is not read.", "It is computed again.")
        assert tensors["a"].equal(_tensor())  # noqa: S101

    def load_table(path: Path) -> None:
        assert load_sealed_table(path).equals(table)  # noqa: S101

    texts = damaged_bytes([CONCEPTS.encode()], tokens)
    specs = st.sampled_from(
        ["torchvision/squeezenet1_1:random=1", "timm/resnet18:x.safetensors", "transformers/a/b",
         "semlens/demo", "model.py:make", "datasets/cats:train[:5%]", "open_clip/ViT-B-32/nothing",
         "python:x", str(folder), "python:photos"]
    ).map(str.encode)  # fmt: skip
    spec_texts = (
        specs.flatmap(
            lambda seed: damaged_bytes(
                [seed], [b"/", b":", b"..", b"\0", b"random=", b"99999999999"]
            )
        ).map(lambda data: data.decode("utf-8", "surrogateescape"))
        | odd_texts
    )
    classes = damaged_json({"ape": 0, "bee": 3})
    return {
        "images": Reader(
            damaged_bytes(_pictures()),
            lambda data: (upright_size(data, "x"), decode(data, "x")),
            1024,
        ),
        "concept sets, TOML": Reader(
            texts, on_file(folder, "set.toml", ConceptSet.load), first=HOSTILE_TOML
        ),
        "concept sets, JSON": Reader(
            damaged_json(json_set) | damaged_bytes([json.dumps(json_set).encode()], tokens),
            on_file(folder, "set.json", ConceptSet.load),
            first=hostile_json(json_set),
        ),
        "concept sets, CSV": Reader(
            damaged_bytes([csv], tokens),
            on_file(folder, "set.csv", ConceptSet.load),
            first=csv_first(csv),
        ),
        "settings of a build": Reader(
            damaged_bytes([b'examples = 6\ncrop = "none"\nlayers = ["a"]\n'], tokens),
            on_file(folder, "build.toml", read_config),
            first=HOSTILE_TOML,
        ),
        "class mappings": Reader(
            classes | damaged_bytes([b"ape,0\nbee,3\n"], tokens),
            lambda data: [
                on_file(folder, f"classes.{end}", read_classes)(data) for end in ("json", "csv")
            ],
            first=hostile_json({"ape": 0}),
        ),
        "class targets": Reader(
            damaged_bytes([b"a.png,ape\nb.png,bee\n"], tokens),
            on_file(folder, "targets.csv", lambda path: read_targets(path, ["a.png", "b.png"])),
        ),
        "component names": Reader(odd_texts, Component.parse),
        "SPECs of models": Reader(spec_texts, load_model, 512),
        "SPECs of embedders": Reader(spec_texts, load_embedder, 512),
        "SPECs of images": Reader(spec_texts, load_images, 512),
        "cached tables": Reader(
            damaged_bytes([sealed]), on_file(folder, "table.parquet", load_table), first=[other]
        ),
        "tensors": Reader(
            damaged_bytes([shard]), on_file(folder, "tensors.safetensors", load_tensors)
        ),
        "shards": Reader(
            damaged_bytes([shard]),
            on_file(folder, "tensors.safetensors", load_shard),
            first=[other_shard],
        ),
    }


def _frame() -> Any:
    import pyarrow as pa

    draw = np.random.default_rng(0)
    return pa.table({"a": draw.normal(size=20), "b": [f"word {i % 7}" for i in range(20)]})


def _tensor() -> Any:
    import torch

    return torch.arange(30.0).reshape(5, 6)


# -- databases ----------------------------------------------------------------------------------


def small_database(folder: Path) -> Path:
    """Build a database with class relevance and a saved audit."""
    inputs = Inputs(folder)
    path = folder / "db"
    db = sl.build(
        path, f"{inputs.model}:make", inputs.images, "semlens/demo", ["first", "second"],
        examples=2, reference=4, crop="activation", relevance=True,
        progress=lambda stage, done, total: None,
    )  # fmt: skip
    db.audits.add("ape", sl.ConceptSet.load(inputs.concepts))
    return path


def database_readers(  # noqa: C901  # a list
    path: Path, open_database: Callable[[Path], sl.ConceptDatabase] = sl.open
) -> dict[str, Reader]:
    """Return the readers of a database: its manifest, its files, and what it is asked for."""
    from semlens.hub.published_files import _for_build
    from semlens.mcp.image_access import ImageAccess
    from semlens.regular_files import file_digest
    from semlens.store.json_documents import JsonDocuments
    from semlens.web.routes.before_after import BeforeAfterResponse, _kept
    from semlens.web.routes.verdicts import _kept_repair

    manifest = json.loads((path / "manifest.json").read_text("utf-8"))
    contents = {name: (path / name).read_bytes() for name in manifest["files"]}
    audit = path / "analysis" / "audits" / "1.json"
    record = json.loads(audit.read_text("utf-8"))

    def ask(changed: Mapping[str, bytes]) -> None:
        """Ask a copy of the database for everything that is read from its build."""
        copy = path.with_name("fuzzed")
        shutil.copytree(path, copy, dirs_exist_ok=True)
        for name, data in changed.items():
            (copy / name).write_bytes(data)
        if "manifest.json" not in changed:  # whoever changes a file may change its digest too
            digests = {name: file_digest(copy / name) for name in contents}
            text = json.dumps({**manifest, "files": digests})
            (copy / "manifest.json").write_text(text, "utf-8")
        first_error = None
        db = open_database(copy)
        questions: list[Callable[[], object]] = [
            lambda: db.components, lambda: db.samples, lambda: db.summary(), lambda: db.norms,
            lambda: [db.examples(layer) for layer in db.layers],
            lambda: [db.thumbnail(0), db.thumbnail(3)], lambda: db.reference,
            lambda: (db.theta, db.crop_vectors), lambda: db.relevance(1),
            lambda: db.audits.readable(), lambda: db.audits.get(1),
        ]  # fmt: skip
        for question in questions:
            try:
                with progress_listener(lambda stage, done, total: None):
                    question()
            except SemlensError as error:
                first_error = first_error or error
        if first_error is not None:
            raise first_error

    def one_file(ending: str, tokens: tuple[bytes, ...] = ()) -> Strategy:
        names = [name for name in contents if name.endswith(ending)]
        return st.sampled_from(names).flatmap(
            lambda name: damaged_bytes([contents[name]], tokens).map(lambda data: {name: data})
        )

    database = open_database(path)

    def kept(text: str) -> None:
        """Read what the page has kept of an experiment: tables of texts, with an origin."""
        database.save_analysis("before-after-0", pd.DataFrame({"response": [text]}), {"key": "k"})
        verdicts: Any = SimpleNamespace(
            components=pd.DataFrame({"target": [0], "verdict": ["spurious"], "component": ["a:1"]})
        )
        _kept_repair(database, 0, verdicts)
        _kept(database, "before-after-0", "k", lambda: BeforeAfterResponse.model_construct())

    def published(data: bytes) -> object:
        name = "analysis/audits/2.json"
        (path / name).write_bytes(data)
        try:
            return _for_build(database, name, path.with_name("staging"), "another build")
        finally:
            (path / name).unlink()

    def last_number(data: bytes) -> None:
        folder = path.with_name("documents")
        folder.mkdir(exist_ok=True)
        (folder / "last.txt").write_bytes(data)
        JsonDocuments(folder, "audit").add({})

    allowed = path.with_name("allowed")
    allowed.mkdir(exist_ok=True)
    access = ImageAccess.of(allowed)
    headers = (b"F16", b"I64", b"[", b"]", b"18446744073709551615", b'"x":', b"{}", b",")
    return {
        "manifests": Reader(
            (damaged_json(manifest) | damaged_bytes([json.dumps(manifest).encode()])).map(
                lambda data: {"manifest.json": data}
            ),
            ask,
        ),
        "Parquet files": Reader(one_file(".parquet"), ask),
        "safetensors files": Reader(one_file(".safetensors", headers), ask),
        "saved audits": Reader(
            (damaged_json(record) | damaged_bytes([json.dumps(record).encode()])).map(
                lambda data: {"analysis/audits/1.json": data}
            ),
            ask,
        ),
        "kept responses": Reader(
            odd_texts.filter(lambda text: text.isprintable()),
            kept,
            first=[
                text.decode("utf-8", "replace") for text in hostile_json({"components": ["a:1"]})
            ],
        ),
        "published audits": Reader(damaged_json(record), published, first=hostile_json(record)),
        "numbers of audits": Reader(damaged_bytes([b"3"]), last_number, first=[b"9" * 5000]),
        "images of agents": Reader(
            damaged_bytes(_pictures()[:2]),
            on_file(allowed, "a.png", lambda file: access.read(database, file.name)),
        ),
        "components of a database": Reader(odd_texts, lambda text: database.rows_of([text])),
    }
