"""Loading ``onnx/FILE.onnx``.

The graph is converted to a module by onnx2torch rather than run by onnxruntime, because relevance,
ablation and pruning need its operations; onnxruntime computes the values that it must have.
"""

from __future__ import annotations

from importlib.util import find_spec

from semlens.errors import ModelError
from semlens.models.subject import SubjectModel
from semlens.recipe import fingerprint
from semlens.regular_files import user_path

_NEEDED = ("onnx", "onnx2torch", "onnxruntime")


def onnx_model(name: str) -> SubjectModel:
    """Load an ONNX file with the preprocessing of the JSON beside it.

    Raises
    ------
    ModelError
        If a package is missing, the file or its preprocessing cannot be read, or the conversion
        differs from what onnxruntime computes.
    """
    missing = next((module for module in _NEEDED if find_spec(module) is None), None)
    if missing is not None:
        raise ModelError(
            f"'onnx/{name}' needs the package '{missing}'.",
            "It is not installed.",
            "Run: pip install 'semlens[onnx]'",
        )
    from semlens.models.onnx_files.conversion import to_module
    from semlens.models.onnx_files.preprocessing import read_preprocessing
    from semlens.models.onnx_files.reading import content_digest, image_input, read_graph

    path = user_path(name)
    graph = read_graph(path)
    image = image_input(graph, path)
    preprocessing = read_preprocessing(path, image)
    height, width = preprocessing.input_size()
    module = to_module(graph, image, height, width, path)
    return SubjectModel(
        module,
        preprocessing.preprocess,
        fingerprint(content_digest(graph), preprocessing.version),
        f"onnx/{path.resolve()}",  # absolute, so that it is valid in any folder
        preprocessing.classes,
    )
