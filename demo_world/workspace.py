"""Paths of downloaded and generated files of the build scripts, in one work folder."""

from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SIZE = 96  # pixels, both sides of every picture of the demo
ASSETS = REPOSITORY / "src" / "semlens" / "assets"


@dataclass(frozen=True)
class Workspace:
    """Paths in one work folder, which needs about 5 GB and is not part of the package."""

    root: Path
    size: int = SIZE
    """Side of the rasterised pictures in pixels; all other files are shared by all sizes."""

    @property
    def npm(self) -> Path:
        """The ``node_modules`` folder that npm fills."""
        return self.root / "npm" / "node_modules"

    @property
    def debian_archives(self) -> Path:
        """Downloaded ``.deb`` files."""
        return self.root / "debs"

    @property
    def debian(self) -> Path:
        """Root folder into which the ``.deb`` files are unpacked (never installed)."""
        return self.root / "debian"

    @property
    def pictures(self) -> Path:
        """Every source picture, uint8[N size size 4] RGBA."""
        return self._sized("pictures", "npy")

    @property
    def picture_index(self) -> Path:
        """One record per row of ``pictures``: source, label, tags, concept."""
        return self._sized("pictures", "json")

    @property
    def captions(self) -> Path:
        """Caption strings, and per picture the captions it can be paired with."""
        return self.root / "captions.json"

    @property
    def caption_vectors(self) -> Path:
        """MiniLM vectors of the caption strings, and of the phrases for distillation."""
        return self.root / "caption_vectors.npz"

    @property
    def phrases(self) -> Path:
        """Phrases that the text tower is distilled on."""
        return self.root / "phrases.json"

    @property
    def features(self) -> Path:
        """Folder of cached features of the frozen stages of the image tower."""
        return self.root / "features"

    @property
    def image_checkpoint(self) -> Path:
        """The trained image tower in float32, safetensors."""
        return self.root / "image_tower_fp32.safetensors"

    def _sized(self, stem: str, suffix: str) -> Path:
        return self.root / f"{stem}{'' if self.size == SIZE else f'-{self.size}'}.{suffix}"

    def world(self, name: str) -> Path:
        """Folder of the world called ``name``."""
        return self.root / "worlds" / name
