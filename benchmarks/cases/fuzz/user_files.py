"""Readers of the files that users bring along: dictionaries, weights, tables, masks, answers."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import save

from benchmarks.cases.fuzz.hostile import csv_first, hostile_json
from benchmarks.cases.fuzz.readers import (
    Reader,
    damaged_bytes,
    damaged_json,
    encoded,
    on_file,
)


def json_reader(seed: Any, read: Callable[[bytes], object], **more: Any) -> Reader:
    """Return the reader of a JSON document."""
    inputs = damaged_json(seed) | damaged_bytes([json.dumps(seed).encode()])
    return Reader(inputs, read, first=hostile_json(seed), **more)


def table_bytes(columns: Sequence[tuple[str, Sequence[Any]]]) -> bytes:
    """Return a Parquet file; columns may have the same name."""
    stream = io.BytesIO()
    arrays = [pa.array(values) for _, values in columns]
    pq.write_table(pa.Table.from_arrays(arrays, [name for name, _ in columns]), stream)
    return stream.getvalue()


def pickled(value: Any) -> bytes:
    """Return what torch saves."""
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _states() -> list[bytes]:
    weight = torch.ones(2, 3)
    itself: dict[str, Any] = {"w": weight}
    itself["model"] = itself["state_dict"] = itself
    odd = [[], None, 3, "x", weight, {3: weight}, {"w": [1]}, {"model": {None: weight}}, itself]
    return [pickled(value) for value in [{"w": weight}, *odd]]


def _autoencoders() -> list[bytes]:
    usual: dict[str, Any] = {
        "sae": "JumpSAE", "dictionary": torch.ones(4, 3), "encoder.weight": torch.ones(4, 3),
        "encoder.bias": torch.zeros(4), "thresholds": torch.zeros(4), "top_k": 2,
    }  # fmt: skip
    odd: list[Any] = [
        [1.0], torch.ones(3), torch.ones(4, 3) * torch.nan, torch.ones(1).expand(10**6, 10**6),
        "x", None, 3, 1e400, torch.zeros(0, 3), {},
    ]  # fmt: skip
    return [pickled(usual)] + [pickled({**usual, key: one}) for key in usual for one in odd]


def dictionary_readers(folder: Path) -> dict[str, Reader]:
    """Return the readers of dictionaries, weights and ONNX files."""
    from semlens.lenses.correct.fine_tuning import TrainingRun
    from semlens.models.checkpoint import read_state
    from semlens.models.load import load_model
    from semlens.store.dictionary_files import load_dictionary

    sae = folder / "sae"
    sae.mkdir(exist_ok=True)
    weights = save({
        "W_enc": torch.ones(3, 4), "W_dec": torch.ones(4, 3), "b_enc": torch.zeros(4),
        "b_dec": torch.zeros(3), "threshold": torch.zeros(4),
    })  # fmt: skip
    (sae / "sae_weights.safetensors").write_bytes(weights)
    config = {
        "architecture": "topk", "k": 2, "activation_fn_str": "relu", "activation_fn_kwargs": {},
        "normalize_activations": "none", "apply_b_dec_to_input": True, "hook_name": "a",
        "metadata": {}, "rescale_acts_by_decoder_norm": True,
    }  # fmt: skip

    def saelens(data: bytes) -> object:
        (sae / "cfg.json").write_bytes(data)
        return load_dictionary(sae)

    info = {"layer": "a", "kind": "sae", "code": "topk", "channels_first": True, "active": 2}
    tensors = {n: torch.ones(4, 3) for n in ("encoder", "decoder")}
    tensors |= {n: torch.zeros(4) for n in ("bias", "threshold")}

    def own(text: bytes) -> object:
        header = {"semlens_dictionary": text.decode("utf-8", "replace")}
        (folder / "own.safetensors").write_bytes(save(tensors, header))
        return load_dictionary(folder / "own.safetensors")

    settings = {
        "mean": [0, 0, 0], "std": [1, 1, 1], "crop_pct": 1.0, "interpolation": "bilinear",
        "input_size": [3, 8, 8], "classes": ["a"], "label_names": ["a"],
        "label_descriptions": {}, "crop_mode": "center",
    }  # fmt: skip
    graph = _graph(folder / "net.onnx")

    def onnx_settings(data: bytes) -> object:
        (folder / "net.onnx").write_bytes(graph)
        (folder / "net.json").write_bytes(data)
        return load_model(f"onnx/{folder / 'net.onnx'}")

    def onnx_graph(data: bytes) -> object:
        (folder / "net.json").write_text(json.dumps(settings), "utf-8")
        (folder / "net.onnx").write_bytes(data)
        return load_model(f"onnx/{folder / 'net.onnx'}")

    run: Any = object.__new__(TrainingRun)
    module = torch.nn.Linear(3, 2)
    run.model, run.identity = SimpleNamespace(device="cpu", module=module), "i"
    run.optimizer, run.schedule = torch.optim.AdamW(module.parameters()), SimpleNamespace()
    run.checkpoint = folder / "checkpoint.pt"
    checkpoints = [pickled({"identity": "i", "module": m}) for m in (module.state_dict(), {}, 3)]
    states, autoencoders = _states(), _autoencoders()
    return {
        "weights": Reader(
            damaged_bytes(states), on_file(folder, "w.pt", read_state), first=states
        ),
        "checkpoints": Reader(
            damaged_bytes(states), on_file(folder, "checkpoint.pt", lambda path: run._resume()),
            first=checkpoints,
        ),
        "settings of SAELens": json_reader(config, saelens),
        "autoencoders of overcomplete": Reader(
            damaged_bytes(autoencoders[:1]), on_file(folder, "sae.pt", load_dictionary),
            first=autoencoders,
        ),
        "dictionaries of semlens": json_reader(info, own),
        "settings of ONNX files": json_reader(settings, onnx_settings, mib=512),
        "ONNX files": Reader(damaged_bytes([graph]), onnx_graph, 512, first=[b"", graph]),
    }  # fmt: skip


def _graph(file: Path) -> bytes:
    """Return an ONNX file that averages images."""
    import onnx

    helper = onnx.helper
    node = helper.make_node("ReduceMean", ["images"], ["logits"], axes=[2, 3], keepdims=0)
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [node], "net", [helper.make_tensor_value_info("images", kind, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", kind, ["n", 3])],
    )  # fmt: skip
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), file)
    return file.read_bytes()


def table_readers(folder: Path) -> dict[str, Reader]:  # noqa: C901  # a list
    """Return the readers of tables, lists, masks and pictures beside the images."""
    from semlens.cli.merge import _read_options
    from semlens.data.artefact_rendering import read_cutout
    from semlens.data.images import split_spec
    from semlens.data.own_boxes import load_boxes
    from semlens.data.parquet_images import ParquetImages
    from semlens.data.tar_images import TarImages
    from semlens.embedders.vector_file import read_vector_file
    from semlens.lenses.contrast.image_groups import _listed
    from semlens.lenses.correct.component_files import read_affected, read_components
    from semlens.lenses.labelling.imported_labels import _records
    from semlens.lenses.netdissect.mask_folder import load_masks
    from semlens.lenses.report.evidence_file import EvidenceFile
    from semlens.lenses.study.answers import read_answers, read_key
    from semlens.mcp.server import unreadable
    from semlens.web.upload import decode_upload

    def both(name: str, read: Callable[[Path], object], endings: str) -> Callable[[bytes], object]:
        readers = [on_file(folder, f"{name}.{ending}", read) for ending in endings.split()]
        return lambda data: [reader(data) for reader in readers]

    def table(text: bytes, name: str, read: Callable[[Path], object]) -> Reader:
        reader = on_file(folder, f"{name}.csv", read)
        return Reader(damaged_bytes([text], [b",", b'"', b"\n"]), reader, first=csv_first(text))

    def parquet(
        columns: list[tuple[str, list[Any]]], name: str, read: Callable[[Path], object]
    ) -> Reader:
        first = [table_bytes(columns), table_bytes([*columns, columns[0]]), table_bytes([]), b""]
        return Reader(
            damaged_bytes(first[:1]), on_file(folder, f"{name}.parquet", read), first=first
        )

    picture = encoded(Image.new("RGBA", (8, 8), (9, 9, 9, 99)), "PNG")
    sides = [("image", ["a.png"]), *((edge, [1.0]) for edge in ("x0", "y0"))]
    sides += [(edge, [5.0]) for edge in ("x1", "y1")]
    boxes = b"image,x0,y0,x1,y1\na.png,1,1,5,5\n"
    masks = folder / "masks"
    masks.mkdir(exist_ok=True)

    def mask_names(data: bytes) -> object:
        (masks / "classes.json").write_bytes(data)
        return load_masks(masks)

    def mask(data: bytes) -> object:
        (masks / "classes.json").write_text('["a", "b"]', "utf-8")
        (masks / "a.png").write_bytes(data)
        return load_masks(masks).labels("a.png", (8, 8), np.arange(8.0), np.arange(8.0))

    question = dict.fromkeys(("components", "right", "value", "pick", "clarity"), 0)
    key = {
        "study": "s", "measure": "clarity", "recurring": 0,
        "questions": [{"question": 1, "kind": "rating", **question}],
    }  # fmt: skip
    answers = b"study,rater,question,answer\ns,ada,1,1\n"

    def answered(path: Path) -> object:
        (folder / "key.json").write_text(json.dumps(key), "utf-8")
        return read_answers(read_key(folder / "key.json"), [path])

    def archive(data: bytes) -> object:
        (folder / "a.tar").write_bytes(data)
        images = TarImages(str(folder / "a.tar"))
        return [images.content(i) for i in range(len(images.ids))]

    def rows_of_images(path: Path) -> object:
        images = ParquetImages(str(path))
        return [images.content(i) for i in range(len(images.ids))]

    def named_classes(data: bytes) -> object:
        table = pa.table({"image": [picture], "label": [0]})
        pq.write_table(table.replace_schema_metadata({"huggingface": data}), folder / "n.parquet")
        return ParquetImages(str(folder / "n.parquet")).targets

    def options(data: bytes) -> object:
        (folder / "partial").mkdir(exist_ok=True)
        (folder / "partial" / "options.json").write_bytes(data)
        return _read_options([folder], None)

    def message(data: bytes) -> object:
        from mcp_types import jsonrpc_message_adapter
        from pydantic import ValidationError

        try:
            return jsonrpc_message_adapter.validate_json(data.decode("utf-8", "replace"))
        except ValidationError as error:
            return unreadable(error).model_dump_json()

    affected = b"path,flagged\na.png,True\n"
    components = [{"component": "first:1", "verdict": "spurious", "auroc": 0.9}]
    labels = b"layer,unit,description,similarity\nfirst,1,red,0.5\n"
    explanations = [{"layer": "first", "index": 1, "description": "red"}]
    evidence = {"schema": 1, "semlens": "0", "database": {}, "finding": "", "level": 0.05}
    evidence |= {"classes": [], "skipped": {}}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "search"}}
    return {
        "boxes, CSV": table(boxes, "boxes", lambda path: load_boxes(path, ["a.png"])),
        "boxes, Parquet": parquet(sides, "boxes", lambda path: load_boxes(path, ["a.png"])),
        "vectors": parquet(
            [("image", ["a.png"]), ("vector", [[1.0, 2.0]])], "vectors", read_vector_file
        ),
        "images in Parquet": parquet([("image", [picture])], "images", rows_of_images),
        "class names in Parquet": json_reader(
            {"info": {"features": {"label": {"names": ["a"]}}}}, named_classes
        ),
        "images in tar": Reader(damaged_bytes([_archive(picture)]), archive),
        "joined data": json_reader(
            {"a": 1},
            lambda data: split_spec("joined:" + data.decode("utf-8", "surrogateescape")),
        ),
        "groups of images": table(b"path,a\na.png,1\n", "group", _listed),
        "groups in Parquet": parquet([("path", ["a.png"])], "group", _listed),
        "affected images": table(affected, "affected", read_affected),
        "components, CSV": table(
            b"component,verdict\nfirst:1,spurious\n", "components",
            lambda path: read_components(path, "spurious"),
        ),
        "components, JSON": json_reader(
            components,
            on_file(folder, "c.json", lambda p: read_components(p, "spurious", auroc=0.5)),
        ),
        "labels, CSV": table(labels, "labels", _records),
        "labels, JSON": json_reader(explanations, both("labels", _records, "json jsonl")),
        "names of masks": json_reader({"0": "a", "1": "b"}, mask_names),
        "masks": Reader(damaged_bytes([encoded(Image.new("L", (8, 8)), "PNG"), picture]), mask),
        "evidence": json_reader(evidence, on_file(folder, "evidence.json", EvidenceFile.load)),
        "keys of studies": json_reader(key, on_file(folder, "k.json", read_key)),
        "answers of studies": table(answers, "answers", answered),
        "cut-outs": Reader(damaged_bytes([picture]), on_file(folder, "cut.png", read_cutout)),
        "uploads": Reader(damaged_bytes([picture, encoded(Image.new("RGB", (8, 8)), "JPEG")]),
                          decode_upload),
        "parts of a build": json_reader({"model": "a", "data": "b", "layers": "c"}, options),
        "messages of agents": json_reader(call, message),
    }  # fmt: skip


def _archive(picture: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in (("0.png", picture), ("0.cls", b"1")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()
