"""ONNX files as subjects: exported by torch, run by onnxruntime, compared with the original."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ColourEmbedder, WordEmbedder, assert_says, write_pictures
from onnx_exports import SETTINGS, export, make, silenced, write_settings
from torch import nn
from typer.testing import CliRunner

import semlens as sl
from semlens.cli.app import app
from semlens.data.image_folder import ImageFolder
from semlens.errors import ModelError
from semlens.models.ablation import pruned
from semlens.models.hooks import run_layers
from semlens.models.subject import SubjectModel

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx2torch")

LAYERS = {
    "cnn": ["stem.2", "blocks.0", "blocks.1", "pool", "last", "head"],
    "vit": ["patch_embed", "blocks.0", "blocks.1.mlp.fc1", "blocks.1.mlp", "norm", "head"],
    "mobilenet": ["features.0", "features.1.block.1", "features.2", "avgpool", "classifier.3"],
}


@pytest.fixture(scope="session")
def cnn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(make("cnn"), tmp_path_factory.mktemp("onnx") / "cnn.onnx")


def original(name: str, loaded: SubjectModel) -> SubjectModel:
    return SubjectModel(
        make(name), loaded.preprocess, "the same", classes=loaded.classes, spec="python:original"
    )


def layer_outputs(model: SubjectModel, layers: list[str], batch: torch.Tensor) -> dict[str, Any]:
    values: dict[str, Any] = {}
    run_layers(model.module, batch, layers, lambda n, v: values.__setitem__(n, v.clone()))
    return values


def agrees(found: torch.Tensor, expected: torch.Tensor) -> bool:
    difference = (found - expected).abs().max()
    return found.shape == expected.shape and bool(difference <= 1e-5 * expected.abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True], ids=["one", "batch"])
@pytest.mark.parametrize("dynamo", [False, True], ids=["traced", "dynamo"])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_have_the_names_and_values_of_the_original(
    name: str, dynamo: bool, dynamic: bool, tmp_path: Path
) -> None:
    file = export(make(name), tmp_path / "net.onnx", dynamo=dynamo, dynamic=dynamic)
    model = sl.load_model(f"onnx/{file}")
    batch = torch.randn(5, 3, 32, 32)
    found = layer_outputs(model, LAYERS[name], batch)
    expected = layer_outputs(original(name, model), LAYERS[name], batch)
    other = layer_outputs(SubjectModel(make(name, 1), model.preprocess, ""), LAYERS[name], batch)
    for layer in LAYERS[name]:
        assert agrees(found[layer], expected[layer]), layer
        assert not agrees(other[layer], expected[layer]), layer  # other weights do not pass
    assert set(LAYERS[name]) <= set(sl.layers(model).to_pandas()["layer"])


@pytest.mark.slow
@pytest.mark.parametrize("opset", [9, 11, 17, 21])
def test_old_and_new_versions_of_operators(opset: int, tmp_path: Path) -> None:
    file = export(make("cnn"), tmp_path / "net.onnx", opset_version=opset)
    model, batch = sl.load_model(f"onnx/{file}"), torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert agrees(model.module(batch), make("cnn")(batch))


def examples(db: sl.ConceptDatabase) -> list[list[tuple[int, tuple[int, ...]]]]:
    rows = range(len(db.components))
    return [[(e.sample, e.box.as_tuple()) for e in db.examples_of(row)] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("crop", ["activation", "crp"])
@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_a_database_is_that_of_the_original(name: str, crop: str, tmp_path: Path) -> None:
    file = export(make(name), tmp_path / "net.onnx")
    layers = {"cnn": ["blocks.0", "last"], "vit": ["blocks.0", "blocks.1.mlp.fc1"]}[name]
    loaded = sl.load_model(f"onnx/{file}")
    images = ImageFolder(write_pictures(tmp_path / "images", 24))
    built = [
        sl.build(
            tmp_path / label, model, images, ColourEmbedder(), layers, examples=4, crop=crop,
            relevance=True, targets=["vegetable", "ox"] * 12,
        )
        for label, model in (("file", loaded), ("torch", original(name, loaded)))
    ]  # fmt: skip
    rules = {db.manifest.relevance.rules for db in built}
    assert len(rules) == 1 and rules != {"gradient"}  # LRP covers both alike
    assert examples(built[0]) == examples(built[1])
    np.testing.assert_allclose(built[0].theta, built[1].theta, atol=2e-3)  # stored in 16 bits
    shares = [db.relevance() for db in built]
    assert shares[0][["component", "class"]].equals(shares[1][["component", "class"]])
    np.testing.assert_allclose(shares[0]["mean"], shares[1]["mean"], atol=1e-4)
    assert shares[0]["mean"].abs().max() > 0.01


def test_ablated_components_change_logits_as_in_the_original(cnn: Path) -> None:
    loaded = sl.load_model(f"onnx/{cnn}")
    batch, components = torch.randn(3, 3, 32, 32), [sl.Component("blocks.0", 2)]
    logits = []
    for model in (loaded, original("cnn", loaded)):
        with torch.no_grad(), pruned(model, components):
            logits.append(model.module(batch))
    assert agrees(*logits)
    with torch.no_grad():
        assert not agrees(logits[0], loaded.module(batch))


@pytest.mark.slow
def test_what_a_database_of_a_file_is_asked(cnn: Path, tmp_path: Path) -> None:
    """The SPEC is found from another folder; weights can be pruned and are read again."""
    file = tmp_path / "my model.onnx"
    file.write_bytes(cnn.read_bytes())
    write_settings(file)
    pictures = write_pictures(tmp_path / "images", 8)
    loaded = sl.load_model(f"onnx/{file}")
    sl.build(tmp_path / "db", loaded, str(pictures), WordEmbedder(), ["last"], examples=2)
    db = sl.open(tmp_path / "db", embedder=WordEmbedder())
    assert db.model.spec == f"onnx/{file.resolve()}"
    db.prune(["last:3"]).save_weights(tmp_path / "pruned.safetensors")
    again = sl.load_model(f"onnx/{file}", weights=tmp_path / "pruned.safetensors")
    batch = torch.randn(2, 3, 32, 32)
    assert layer_outputs(loaded, ["last"], batch)["last"][:, 3].abs().max() > 0
    with torch.no_grad(), pruned(loaded, [sl.Component("last", 3)]) as expected:
        assert agrees(again.module(batch), expected.module(batch))
    assert again.fingerprint != loaded.fingerprint


@pytest.mark.slow
def test_commands_take_the_spec(cnn: Path, tmp_path: Path) -> None:
    listed = CliRunner().invoke(app, ["layers", f"onnx/{cnn}"])
    assert listed.exit_code == 0, listed.output
    assert "blocks.1" in listed.output and "last" in listed.output
    pictures = write_pictures(tmp_path / "images", 6)
    command = ["build", str(tmp_path / "db"), "--model", f"onnx/{cnn}", "--data", str(pictures)]
    command += ["--layers", "last", "--embedder", "semlens/demo", "--examples", "2"]
    ended = CliRunner().invoke(app, command)
    assert ended.exit_code == 0, ended.output
    assert len(sl.open(tmp_path / "db").search("a red square", top=3).hits) == 3


def test_the_content_identifies_the_model(cnn: Path, tmp_path: Path) -> None:
    def fingerprint(name: str, model: onnx.ModelProto, **changes: Any) -> str:
        file = tmp_path / name
        onnx.save(model, file, save_as_external_data=name == "apart.onnx", location="apart.data",
                  size_threshold=0)  # fmt: skip
        write_settings(file, **changes)
        return sl.load_model(f"onnx/{file}").fingerprint

    plain = fingerprint("plain.onnx", onnx.load(cnn))
    assert plain == sl.load_model(f"onnx/{cnn}").fingerprint
    assert plain == fingerprint("apart.onnx", onnx.load(cnn))
    assert (tmp_path / "apart.data").stat().st_size > 0
    assert plain != fingerprint("mean.onnx", onnx.load(cnn), mean=[0.4, 0.5, 0.5])
    changed = onnx.load(cnn)
    weights = next(t for t in changed.graph.initializer if t.name == "head.bias")
    weights.CopyFrom(onnx.numpy_helper.from_array(np.zeros(4, np.float32), "head.bias"))
    assert plain != fingerprint("weights.onnx", changed)


def graph_file(file: Path, nodes: list[Any], weights: dict[str, np.ndarray], **options: Any) -> str:
    """Write a graph from images to logits, and return its SPEC."""
    helper, kind = onnx.helper, options.get("kind", onnx.TensorProto.FLOAT)
    shape = options.get("shape", ["batch", 3, 32, 32])
    names = options.get("inputs", ["images"])
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info(name, kind, shape) for name in names],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", options.get("opset", 17))]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), file)
    write_settings(file, classes=None)
    return f"onnx/{file}"


def resizing(file: Path, mode: str) -> str:
    """Write a graph that doubles its images, and convolves them."""
    node = onnx.helper.make_node
    nodes = [
        node("Resize", ["images", "", "scales"], ["large"], mode="linear",
             coordinate_transformation_mode=mode),
        node("Conv", ["large", "kernel"], ["map"], name="/conv/Conv"),
        node("GlobalAveragePool", ["map"], ["pooled"]),
        node("Flatten", ["pooled"], ["logits"]),
    ]  # fmt: skip
    kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    return graph_file(file, nodes, {"scales": np.float32([1, 1, 2, 2]), "kernel": kernel})


def test_a_wrong_conversion_is_refused(tmp_path: Path) -> None:
    """onnx2torch resizes by half pixels whatever the graph says."""
    assert sl.load_model(resizing(tmp_path / "right.onnx", "half_pixel")).module
    with pytest.raises(ModelError) as raised:
        sl.load_model(resizing(tmp_path / "wrong.onnx", "asymmetric"))
    assert_says(raised.value, "differs from onnxruntime at 'Resize'", "0.0001", "FILE.py:CALLABLE")


def test_a_resize_by_constant_factors_has_relevance_rules(tmp_path: Path) -> None:
    """onnx2torch reads the factors from a tensor, which no captured graph can do."""
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["images", "kernel"], ["map"], name="/conv/Conv"),
        node("Relu", ["map"], ["relu"], name="/act/Relu"),
        node("Resize", ["relu", "", "scales"], ["large"], mode="nearest",
             coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
        node("GlobalAveragePool", ["large"], ["pooled"]),
        node("Flatten", ["pooled"], ["logits"]),
    ]  # fmt: skip
    kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    weights = {"scales": np.float32([1, 1, 3, 2]), "kernel": kernel}
    model = sl.load_model(graph_file(tmp_path / "n.onnx", nodes, weights))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no fall-back to gradient times input
        engine = sl.make_engine(model.module, model.example[:1], ["act"])
    checked = sl.check_conservation(engine, model.example).to_pandas().set_index("part")
    assert checked.loc["layer", "share"] == pytest.approx(1, abs=1e-5)
    assert abs(checked.loc["residual", "share"]) < 1e-5


def test_equal_infinities_are_no_difference() -> None:
    from semlens.models.onnx_files.conversion import _difference

    expected = np.float32([-np.inf, 2, 1])
    assert _difference(np.float32([-np.inf, 2, 1.0002]), expected) == pytest.approx(1e-4, rel=0.01)
    assert _difference(np.float32([-np.inf, 2, 1]), expected) == 0
    for other in ([3, 2, 1], [np.inf, 2, 1], [np.nan, 2, 1], [-np.inf, 2, np.nan]):
        assert not _difference(np.float32(other), expected) <= 1


def test_channels_last_inputs_are_permuted(tmp_path: Path) -> None:
    node = onnx.helper.make_node
    nodes = [
        node("Transpose", ["images"], ["first"], perm=[0, 3, 1, 2]),
        node("Conv", ["first", "kernel"], ["map"], name="net/conv/Conv2D"),
        node("ReduceMean", ["map"], ["logits"], axes=[2, 3], keepdims=0),
    ]
    kernel = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    shape = ["batch", 32, 32, 3]
    model = sl.load_model(graph_file(tmp_path / "x.onnx", nodes, {"kernel": kernel}, shape=shape))
    batch = torch.randn(2, 3, 32, 32)
    expected = nn.functional.conv2d(batch, torch.from_numpy(kernel))
    assert agrees(layer_outputs(model, ["net.conv"], batch)["net.conv"], expected)


def relu(name: str = "images") -> list[Any]:
    return [onnx.helper.make_node("Relu", [name], ["logits"])]


INPUTS = {
    "two": ({"inputs": ["images", "mask"]}, "'images' (float[batch 3 32 32]), 'mask'"),
    "bytes": ({"kind": 2}, "'images' (uint8[batch 3 32 32])"),
    "grey": ({"shape": ["n", 1, 32, 32]}, "'images' (float[n 1 32 32])"),
    "unknown": ({"kind": 999}, "'images' (element type 999[batch 3 32 32])"),
    "flat": ({"shape": ["n", 3072]}, "'images' (float[n 3072])"),
}


@pytest.mark.parametrize("case", INPUTS)
def test_inputs_that_are_no_images_are_refused(case: str, tmp_path: Path) -> None:
    options, found = INPUTS[case]
    with pytest.raises(ModelError) as raised:
        sl.load_model(graph_file(tmp_path / "x.onnx", relu(), {}, **options))
    assert_says(raised.value, f"takes {found}", "[b 3 h w] or [b h w 3]", "RGB")


def test_a_graph_without_outputs_is_refused(cnn: Path, tmp_path: Path) -> None:
    model = onnx.load(cnn)
    del model.graph.output[:]
    onnx.save(model, tmp_path / "x.onnx")
    write_settings(tmp_path / "x.onnx")
    with pytest.raises(ModelError) as raised:
        sl.load_model(f"onnx/{tmp_path / 'x.onnx'}")
    assert_says(raised.value, "has no outputs", "logits", "Export")


def test_unsupported_operators_are_named(cnn: Path, tmp_path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    file = tmp_path / "int8.onnx"
    with silenced():
        quantize_dynamic(cnn, file)
    write_settings(file)
    with pytest.raises(ModelError) as raised:
        sl.load_model(f"onnx/{file}")
    assert_says(raised.value, "ConvInteger (6)", "floating point", "before quantisation")


def test_a_batch_that_is_mixed_is_refused(tmp_path: Path) -> None:
    """Which axis of a shape is the batch cannot always be told from a graph for one image."""
    node = onnx.helper.make_node
    nodes = [
        node("Transpose", ["images"], ["channels"], perm=[1, 0, 2, 3]),
        node("Reshape", ["channels", "shape"], ["rows"]),
        node("ReduceMean", ["rows"], ["mean"], axes=[0], keepdims=1),
        node("MatMul", ["mean", "matrix"], ["logits"]),
    ]
    weights = {"shape": np.array([3, 1024]), "matrix": np.ones((1024, 4), np.float32)}
    with pytest.raises(ModelError) as raised:
        sl.load_model(graph_file(tmp_path / "x.onnx", nodes, weights, shape=[1, 3, 32, 32]))
    assert_says(raised.value, "works for batches of 1 only", "any number of images", "dynamic_axes")


def test_settings_that_onnx2torch_does_not_know_are_refused(tmp_path: Path) -> None:
    nodes = [onnx.helper.make_node("Flatten", ["images"], ["logits"], axis=0)]
    with pytest.raises(ModelError) as raised:
        sl.load_model(graph_file(tmp_path / "x.onnx", nodes, {}))
    assert_says(raised.value, "cannot be converted to PyTorch", "onnx2torch supports", "FILE.py")


def test_damaged_files_are_refused(cnn: Path, tmp_path: Path) -> None:
    def refused(*parts: str) -> None:
        write_settings(tmp_path / "x.onnx")
        with pytest.raises(ModelError) as raised:
            sl.load_model(f"onnx/{tmp_path / 'x.onnx'}")
        assert_says(raised.value, *parts)

    refused("is not a file", "onnx/PATH", "Check the path")
    file, weights = tmp_path / "x.onnx", tmp_path / "x.data"
    file.write_bytes(b"\xff" * 100)
    refused("cannot be read as ONNX", "complete ONNX file", "onnx.checker")
    file.write_bytes(b"")
    refused("contains no graph", "onnx.checker")
    file.write_bytes(cnn.read_bytes()[:-4000])
    refused("x.onnx", "onnx.checker")
    onnx.save(onnx.load(cnn), file, save_as_external_data=True, location="x.data", size_threshold=0)
    content = weights.read_bytes()
    weights.write_bytes(content[:-100])
    refused("weights", "external data, complete", "Copy both files")
    weights.unlink()
    refused("weights", "external data", "Copy both files")
    future = onnx.load(cnn)
    future.opset_import[0].version = 99
    onnx.save(future, file)
    refused("onnxruntime does not run", "Opset 99", "onnx.checker")


def test_preprocessing_is_never_guessed(cnn: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.onnx"
    file.write_bytes(cnn.read_bytes())
    with pytest.raises(ModelError) as raised:
        sl.load_model(f"onnx/{file}")
    assert_says(raised.value, "no 'x.json' beside it", "mean and std", '{"mean": [')
    example = re.search(r"\{.*?\}", str(raised.value))
    assert example is not None
    (tmp_path / "x.json").write_text(example[0])  # the remedy as it is
    assert json.loads(example[0])["input_size"] == [3, 32, 32]
    sl.load_model(f"onnx/{file}")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("mean", None, "has no 'mean'. Expected three numbers, red first"),
        ("mean", [0.5], "has [0.5] as 'mean'"),
        ("std", None, "has no 'std'"),
        ("std", [0.2, 0, 0.2], "three numbers above 0"),
        ("std", [0.2, True, 0.2], "has [0.2, true, 0.2] as 'std'"),
        ("crop_pct", None, "has no 'crop_pct'. Expected a number above 0, at most 1"),
        ("crop_pct", 87.5, "has 87.5 as 'crop_pct'"),
        ("interpolation", None, "Expected one of nearest, bilinear"),
        ("interpolation", "linear", 'has "linear" as'),
        ("crop_mode", "corner", "center, squash, border"),
        ("input_size", [3, 48, 48], "Expected [3, 32, 32], as the graph takes"),
        ("input_size", 32, "has 32 as 'input_size'"),
        ("input_size", [3, 48, 48], 'Write it such as {"input_size": [3, 32, 32]}'),
        ("classes", ["a", 3], "a list of texts in logit order"),
        ("pretrained_cfg", [], "has [] as 'pretrained_cfg'"),
        ("pretrained_cfg", 3, "has 3 as 'pretrained_cfg'"),
        ("label_descriptions", ["a"], """has ["a"] as 'label_descriptions'"""),
        ("label_descriptions", {"a": 3}, "texts by name"),
        ("mean", [10**400, 0, 0], "more than 64 bits"),
        ("crop_pct", 1e-6, "scales images to 32000000 pixels. Expected a size and a crop_pct"),
    ],
)
def test_each_setting_is_checked(
    cnn: Path, tmp_path: Path, key: str, value: Any, expected: str
) -> None:
    file = tmp_path / "x.onnx"
    file.write_bytes(cnn.read_bytes())
    write_settings(file, **{key: value})
    with pytest.raises(ModelError) as raised:
        sl.load_model(f"onnx/{file}")
    assert_says(raised.value, str(tmp_path / "x.json"), expected, "Write it such as")


def test_a_size_that_takes_for_ever_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.onnx"
    spec = graph_file(file, relu(), {}, shape=["n", 3, "height", "width"])
    for size, part in (
        ([3, 10**6, 10**6], "scales images to"),
        ([3, 8192, 8192], "takes 3 images"),
    ):
        write_settings(file, input_size=size, crop_pct=1.0)
        with pytest.raises(ModelError) as raised:
            sl.load_model(spec)
        assert_says(raised.value, part, "at most")
    spec = graph_file(file, relu(), {}, shape=[10**9, 3, 32, 32])
    with pytest.raises(ModelError, match="takes 1000000000 images of 32 x 32 pixels"):
        sl.load_model(spec)


@pytest.mark.parametrize(
    "settings",
    [
        [], {"image_processor_type": 3}, {"size": {"height": 1e6, "width": 1e6}},
        {"size": "large"}, {"image_mean": "red"}, {"resample": 99},
    ],
    ids=str,
)  # fmt: skip
def test_odd_settings_of_transformers_are_refused(tmp_path: Path, settings: Any) -> None:
    spec = graph_file(tmp_path / "x.onnx", relu(), {}, shape=["n", 3, "height", "width"])
    (tmp_path / "x.json").unlink()
    usual = {"image_processor_type": "ViTImageProcessor"}
    content = {**usual, **settings} if isinstance(settings, dict) else settings
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError):
        sl.load_model(spec)


def test_the_size_may_come_from_the_graph_or_the_settings(tmp_path: Path) -> None:
    file = export(make("cnn"), tmp_path / "x.onnx")
    write_settings(file, input_size=None)
    assert sl.load_model(f"onnx/{file}").example.shape[2:] == (32, 32)
    free = {"images": {0: "batch", 2: "height", 3: "width"}, "logits": {0: "batch"}}
    export(make("cnn"), file, dynamic=False, dynamic_axes=free)
    write_settings(file, input_size=[3, 40, 48])
    assert sl.load_model(f"onnx/{file}").example.shape[2:] == (40, 48)
    write_settings(file, input_size=None)
    with pytest.raises(ModelError) as raised:
        sl.load_model(f"onnx/{file}")
    assert_says(raised.value, "has no 'input_size'", "[3, any, any]")


@pytest.mark.slow
def test_settings_of_timm_and_transformers_are_read(cnn: Path, tmp_path: Path) -> None:
    from PIL import Image

    picture = Image.effect_mandelbrot((90, 60), (-2, -1, 1, 1), 50).convert("RGB")
    expected = sl.load_model(f"onnx/{cnn}")
    settings = {k: v for k, v in SETTINGS.items() if k != "classes"}
    names, texts = ["n1", "n2", "n3", "n4"], {"n1": "a vegetable"}
    timm = {
        "config.json": {
            "architecture": "x", "label_names": names, "label_descriptions": texts,
            "pretrained_cfg": settings,
        }
    }  # fmt: skip
    transformers = {
        "config.json": {"id2label": {str(i): f"class {i}" for i in range(4)}},
        "preprocessor_config.json": {
            "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32},
            "image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 2,
        },
    }  # fmt: skip
    classes = [["a vegetable", *names[1:]], [f"class {i}" for i in range(4)]]
    for i, files in enumerate((timm, transformers)):
        folder = tmp_path / str(i)
        (folder / "onnx").mkdir(parents=True)
        for name, content in files.items():
            (folder / name).write_text(json.dumps(content))
        for place in (folder, folder / "onnx"):
            (place / "model.onnx").write_bytes(cnn.read_bytes())
            model = sl.load_model(f"onnx/{place / 'model.onnx'}")
            assert model.classes == classes[i]
            assert model.prepare(picture).shape == (3, 32, 32)
    model = sl.load_model(f"onnx/{tmp_path / '0/model.onnx'}")
    torch.testing.assert_close(model.prepare(picture), expected.prepare(picture))


def test_random_weights_and_missing_packages(cnn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from semlens.models import load

    with pytest.raises(ModelError) as raised:
        sl.load_model(f"onnx/{cnn}", random_weights=1)
    assert_says(raised.value, "has its own weights", "seed 1")
    find = load.find_spec
    monkeypatch.setattr(load, "find_spec", lambda n: None if n == "onnxruntime" else find(n))
    with pytest.raises(ModelError) as raised:
        sl.load_model(f"onnx/{cnn}")
    assert_says(raised.value, "needs the package 'onnxruntime'", "pip install 'semlens[onnx]'")
