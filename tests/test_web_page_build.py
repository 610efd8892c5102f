"""The page in the package: what it is built from, when it is built, when it is old."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from conftest import assert_says
from web_browser import ROOT, absent

from semlens.errors import ServeError
from semlens.web import page_build as stamp
from semlens.web.page_build import check_built, static_folder

MODULES = ROOT / "web/node_modules"
COPIED = (
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "hatch_build.py",
    "pyproject.toml",
    "src/semlens/__init__.py",
    "src/semlens/assets/demo/LICENSES.md",
    "src/semlens/web/page_build.py",
    "web/package.json",
    "web/package-lock.json",
    "web/vite.config.ts",
    "web/svelte.config.js",
    "web/tsconfig.json",
)


def load_hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hook = load_hook()


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def web(tmp_path: Path) -> Path:
    """Sources as files only: enough to be hashed."""
    folder = tmp_path / "repository" / "web"
    write(folder / "package.json", "{}")
    write(folder / "src/main.ts", "1")
    write(folder / "src/parts/Bar.svelte", "2")
    write(folder.parent / "hatch_build.py", "")
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A small copy of the repository whose page is one line, with the real tools."""
    if not MODULES.is_dir() or (hook.installed_node() or hook.node_from_wheel()) is None:
        absent("There is no Node.js, or no 'node_modules' in web/ (pip install . makes it).")
    folder = tmp_path / "checkout"
    for name in COPIED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    write(folder / "web/index.html", '<script type="module" src="/src/main.ts"></script>')
    write(folder / "web/src/main.ts", "document.title = 'first';")
    (folder / "web/node_modules").symlink_to(MODULES)
    return folder


def without_node(tmp_path: Path) -> str:
    """A PATH with a shell and no Node.js."""
    folder = tmp_path / "path"
    folder.mkdir(exist_ok=True)
    (folder / "sh").symlink_to("/bin/sh")
    return str(folder)


def test_the_digest_is_of_names_and_contents_of_sources_only(web: Path):
    first = stamp.digest(web)
    names = [path.relative_to(web).as_posix() for path in stamp.sources(web)]
    assert names == ["package.json", "src/main.ts", "src/parts/Bar.svelte"]
    for other in ("README.md", "node_modules/x/index.js", ".npmrc", "src/.Bar.swp", "dist/a.js"):
        write(web / other, "other")
    assert stamp.digest(web) == first
    write(web / "src/main.ts", "3")
    changed = stamp.digest(web)
    (web / "src/main.ts").rename(web / "src/other.ts")
    renamed = stamp.digest(web)
    write(web / "src/new.css", "")
    assert len({first, changed, renamed, stamp.digest(web)}) == 4


def test_a_stamp_counts_only_beside_a_page(tmp_path: Path):
    assert stamp.read(tmp_path) is None
    stamp.write(tmp_path, "0" * 64)
    assert stamp.read(tmp_path) is None
    write(tmp_path / "index.html", "")
    assert stamp.read(tmp_path) == "0" * 64


def test_a_page_that_is_older_than_its_sources_is_noticed(web: Path, tmp_path: Path):
    static, checkout = tmp_path / "static", web.parent
    assert check_built(static, checkout) is None  # no page: static_folder says so
    write(static / "index.html", "")
    stamp.write(static, stamp.digest(web))
    assert check_built(static, checkout) is None
    write(web / "src/main.ts", "changed")
    notice = check_built(static, checkout)
    assert notice is not None
    assert f"older than its sources in '{web}'" in notice
    assert f"Run 'pip install --no-deps --editable {checkout}'." in notice
    (checkout / "hatch_build.py").unlink()  # not a checkout: an installed package
    assert check_built(static, checkout) is None


def test_a_page_built_by_hand_is_as_new_as_its_file(web: Path, tmp_path: Path):
    static = tmp_path / "static"
    page = write(static / "index.html", "")
    newest = max(path.stat().st_mtime_ns for path in stamp.sources(web))
    os.utime(page, ns=(newest, newest + 1))
    assert check_built(static, web.parent) is None
    os.utime(page, ns=(newest, newest - 1))
    assert "older than its sources" in (check_built(static, web.parent) or "")


def test_a_missing_page_says_what_to_do(tmp_path: Path):
    with pytest.raises(ServeError) as caught:
        static_folder(tmp_path)
    assert_says(
        caught.value,
        f"The web page is missing: '{tmp_path / 'index.html'}' does not exist.",
        "Expected a wheel, source distribution or editable install, which all include it.",
    )
    assert caught.value.remedy.startswith(("Run 'pip install", "Install semlens again"))
    write(tmp_path / "index.html", "")
    assert static_folder(tmp_path) == tmp_path


def test_the_lock_file_names_no_registry():
    lock = json.loads((ROOT / "web/package-lock.json").read_text())
    assert lock["packages"]
    assert not [name for name, package in lock["packages"].items() if "resolved" in package]
    assert "omit-lockfile-registry-resolved=true" in (ROOT / "web/.npmrc").read_text().split()


@pytest.mark.parametrize(
    ("major", "minor", "fits"),
    [(18, 20, False), (20, 18, False), (20, 19, True), (21, 9, False), (22, 11, False)]
    + [(22, 12, True), (23, 0, True), (24, 1, True)],
)
def test_which_versions_of_node_build_it(major: int, minor: int, fits: bool):
    assert hook.is_supported_node(major, minor) is fits


def test_an_old_node_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, said in (("node", "v18.20.4"), ("npm", "10.0.0")):
        write(tmp_path / name, f"#!/bin/sh\necho {said}\n").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hook.installed_node() is None
    write(tmp_path / "node", "#!/bin/sh\necho v20.19.0\n")
    assert hook.installed_node() == hook.Node(tmp_path, (str(tmp_path / "npm"),))
    (tmp_path / "npm").unlink()
    assert hook.installed_node() is None


def test_node_comes_from_a_wheel_only_where_a_build_needs_it(
    web: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = web.parent
    monkeypatch.setenv("PATH", without_node(tmp_path))
    shutil.copytree(
        ROOT / "src/semlens/web", root / "src/semlens/web", ignore=lambda *_: ["static"]
    )
    page_hook = hook.PageHook(str(root), {}, None, None, str(tmp_path), "wheel")
    assert page_hook.dependencies() == [hook.NODE_WHEEL]
    if hook.node_from_wheel() is None:
        with pytest.raises(hook.BuildError) as caught:
            hook.build_page(root)
        assert_says(caught.value, "No suitable Node.js was found.", "Expected Node.js", "Install")
    write(hook.static_folder(root) / "index.html", "")
    stamp.write(hook.static_folder(root), stamp.digest(web))
    assert page_hook.dependencies() == []
    hook.build_page(root)  # and does nothing


def test_node_modules_are_compared_with_the_lock(web: Path):
    lock = {
        "": {"name": "page"},
        "node_modules/a": {"integrity": "sha512-a"},
        "node_modules/other-platform": {"integrity": "sha512-o", "optional": True},
    }
    here = {"node_modules/a": {"integrity": "sha512-a"}}

    def match(locked: dict, installed: dict) -> bool:
        write(web / "package-lock.json", json.dumps({"packages": locked}))
        write(web / "node_modules/.package-lock.json", json.dumps({"packages": installed}))
        return hook.modules_match(web)

    assert not hook.modules_match(web)
    assert match(lock, here)
    assert not match(lock, {})
    assert not match(lock, {"node_modules/a": {"integrity": "sha512-b"}})
    assert not match(lock, here | {"node_modules/gone": {"integrity": "sha512-g"}})
    write(web / "node_modules/.package-lock.json", "{")
    assert not hook.modules_match(web)


@pytest.mark.slow
def test_the_page_is_built_once_and_again_when_a_source_changes(checkout: Path):
    said: list[str] = []
    static = hook.static_folder(checkout)
    hook.build_page(checkout, said.append)
    assert (static / "index.html").is_file()
    assert "first" in (static / "app.js").read_text()
    assert said[-1] == "semlens: npm run build"
    said.clear()
    hook.build_page(checkout, said.append)
    assert said == []
    write(checkout / "web/src/main.ts", "document.title = 'second';")
    hook.build_page(checkout, said.append)
    assert "second" in (static / "app.js").read_text()
    assert check_built(static, checkout) is None


@pytest.mark.slow
def test_a_build_that_fails_says_why_and_leaves_no_page(checkout: Path):
    static = hook.static_folder(checkout)
    write(static / "index.html", "an old one")
    write(checkout / "web/src/main.ts", "import './not-there';")
    with pytest.raises(hook.BuildError) as caught:
        hook.build_page(checkout)
    assert_says(
        caught.value,
        f"'npm run build' in '{checkout / 'web'}' failed with exit code 1.",
        "Expected it to build the web page",
        "Fix the error below",
        "not-there",
    )
    assert not (static / "index.html").exists()


@pytest.mark.slow
def test_a_build_elsewhere_does_not_pass(checkout: Path):
    config = checkout / "web/vite.config.ts"
    config.write_text(config.read_text().replace("../src/semlens/web/static", "../elsewhere"))
    with pytest.raises(hook.BuildError) as caught:
        hook.build_page(checkout)
    assert_says(caught.value, "did not create", "Expected the page at this path.", "'outDir'")


@pytest.mark.slow
def test_the_page_is_in_the_wheel_in_the_sdist_and_in_the_sdists_wheel(
    checkout: Path, tmp_path: Path
):
    def build(folder: Path, *kinds: str, **changed: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path / "out"), *kinds],
            cwd=folder,
            env={**os.environ, **changed},
            capture_output=True,
            text=True,
        )
        return ended.stderr + ended.stdout if ended.returncode else ""

    def in_wheel() -> set[str]:
        (wheel,) = (tmp_path / "out").glob("*.whl")
        names = zipfile.ZipFile(wheel).namelist()
        wheel.unlink()
        return {name for name in names if "/static/" in name}

    assert build(checkout, "-t", "sdist", "-t", "wheel") == ""
    page = {f"semlens/web/static/{name}" for name in ("index.html", "app.js", "stamp")}
    assert in_wheel() == page
    (sdist,) = (tmp_path / "out").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames()]
        archive.extractall(tmp_path / "unpacked", filter="data")
    assert {f"src/{name}" for name in page} <= set(names)
    assert not [name for name in names if name.startswith("web/")]

    (unpacked,) = (tmp_path / "unpacked").iterdir()
    assert build(unpacked, "-t", "wheel", PATH=without_node(tmp_path)) == ""
    assert in_wheel() == page
    (hook.static_folder(unpacked) / "index.html").unlink()
    assert "Get a complete copy of the sources." in build(unpacked, "-t", "wheel")
