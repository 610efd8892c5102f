"""What benchmarks share: a reference's own environment, and what the machine is."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import site
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import torch


def reference_python(folder: Path, requirement: str) -> Path:
    """Make a reference's environment in ``folder`` and return its Python.

    It borrows PyTorch and the like from this environment, so that both run the same kernels;
    what else it needs is installed into it, and this environment stays as it is.
    """
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.is_file():
        venv.create(folder, with_pip=True, clear=True)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        borrowed = folder / "lib" / version / "site-packages" / "borrowed.pth"
        borrowed.write_text("\n".join(site.getsitepackages()), "utf-8")
        command = [python, "-m", "pip", "install", "-q", requirement]
        subprocess.run(command, check=True, stdout=sys.stderr)
        done.touch()
    return python


def machine() -> dict[str, Any]:
    """Describe the machine and the libraries that decide the times."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if _linux() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
        "torchvision": importlib.metadata.version("torchvision"),
        "pillow": importlib.metadata.version("pillow"),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _linux() -> bool:
    return Path("/proc/cpuinfo").is_file()
