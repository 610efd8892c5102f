"""Sparse autoencoders: their losses, and their training on a stream of activation vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn import functional

from semlens.dictionaries.dictionary import Dictionary, DictionaryInfo
from semlens.errors import RecipeError
from semlens.progress import report_progress
from semlens.settings import Settings, setting


class SparseAutoencoder(nn.Module):
    """Codes ``z = f((x - c) E' + b)``, and the reconstruction ``z D + c``.

    ``f`` keeps what is above zero, and of that the ``active`` largest, if this number is given
    (TopK, Gao et al. 2024, eq. 1); otherwise all (vanilla, Bricken et al. 2023). Rows of ``D``
    have unit length; ``E`` starts as ``D``, ``b`` as zero.

    Parameters
    ----------
    directions
        Initial rows of ``D``, of any length.
    centre
        Initial ``c``: the mean of the data.
    active
        Codes that are not zero at most.
    """

    def __init__(
        self,
        directions: Float[Tensor, "k c"],
        centre: Float[Tensor, " c"],
        active: int | None = None,
    ) -> None:
        super().__init__()
        self.active = active
        self.decoder = nn.Parameter(functional.normalize(directions, dim=1))
        self.encoder = nn.Parameter(self.decoder.detach().clone())
        self.bias = nn.Parameter(directions.new_zeros(len(directions)))
        self.centre = nn.Parameter(centre.clone())

    def encode(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
        """Return the codes."""
        codes = functional.linear(x - self.centre, self.encoder, self.bias).relu()
        if self.active is None:
            return codes
        kept = codes.topk(self.active, dim=-1)
        return torch.zeros_like(codes).scatter(-1, kept.indices, kept.values)

    def decode(self, codes: Float[Tensor, "n k"]) -> Float[Tensor, "n c"]:
        """Return the reconstruction."""
        return codes @ self.decoder + self.centre

    def loss(
        self, x: Float[Tensor, "n c"], codes: Float[Tensor, "n k"], sparsity: float
    ) -> Float[Tensor, ""]:
        """Return the mean of ``|x - (z D + c)|^2``, without ``active`` plus ``sparsity * sum z``.

        The weight of an L1 penalty means something only if ``x`` has a known scale:
        :func:`~semlens.dictionaries.train_sae.train_sae` gives it unit variance.
        """
        error = (x - self.decode(codes)).square().sum(-1).mean()
        return error if self.active is not None else error + sparsity * codes.sum(-1).mean()

    @torch.no_grad()
    def keep_unit_length(self) -> None:
        """Bring the directions back to unit length, after a step."""
        self.decoder.copy_(functional.normalize(self.decoder, dim=1))

    @torch.no_grad()
    def project_gradient(self) -> None:
        """Remove what would only change the length of directions, as Bricken et al. do."""
        assert self.decoder.grad is not None  # noqa: S101  # the caller's condition
        along = (self.decoder.grad * self.decoder).sum(1, keepdim=True)
        self.decoder.grad -= along * self.decoder

    @torch.no_grad()
    def dictionary(self, info: DictionaryInfo, scale: float) -> Dictionary:
        """Return the dictionary for vectors ``scale * x``, whose codes are ``scale`` times these.

        ``c`` becomes part of the encoder's bias, and of the error: what no direction adds.
        """
        bias = scale * (self.bias - self.encoder @ self.centre)
        return Dictionary(info, self.encoder, self.decoder, bias)


ROWS = 4096
"""Vectors that are coded at once: their codes take much more memory than they do."""
SHRINKAGE = 0.2
"""Length of a resampled row of a vanilla encoder, as a share of the mean of the others."""


@torch.no_grad()
def resample(
    autoencoder: SparseAutoencoder,
    dead: Bool[Tensor, " k"],
    x: Float[Tensor, "n c"],
    optimizer: torch.optim.Adam,
    generator: torch.Generator,
) -> None:
    """Point dead latents at vectors that are badly reconstructed (Bricken et al. 2023).

    Each gets the direction of a vector of ``x``, drawn in proportion to its squared loss; its
    bias becomes zero, and Adam forgets it. Rows of the encoder get a fifth of the mean length of
    the others, as in the paper; with TopK the mean length, since a smaller product would not be
    among the largest.
    """
    parts = [(y - autoencoder.decode(autoencoder.encode(y))).square().sum(-1)
             for y in x.split(ROWS)]  # fmt: skip
    weight = torch.cat(parts).cpu().double().square()  # not every device has float64
    indices = dead.nonzero()[:, 0]
    count = min(len(indices), int((weight > 0).sum()))
    if not count:
        return
    indices = indices[:count]
    drawn = torch.multinomial(weight, count, generator=generator).to(x.device)
    directions = functional.normalize(x[drawn] - autoencoder.centre, dim=1)
    lengths = autoencoder.encoder[~dead].norm(dim=1)
    length = lengths.mean() if len(lengths) else torch.ones((), device=x.device)
    share = 1.0 if autoencoder.active is not None else SHRINKAGE
    autoencoder.decoder[indices] = directions
    autoencoder.encoder[indices] = directions * (share * length)
    autoencoder.bias[indices] = 0
    for parameter in (autoencoder.decoder, autoencoder.encoder, autoencoder.bias):
        for moment in ("exp_avg", "exp_avg_sq"):
            optimizer.state[parameter][moment][indices] = 0


SAE = "sae"
"""The kind of its directions."""
CHECKS = 20
"""Parts of a training, after each of which latents without a code are resampled."""
LAST_CHECK = 0.6
"""Share of the training after which none is: resampled latents need time."""
DECAY = 0.2
"""Last share of the training, in which the learning rate falls to zero."""
MOST_ACTIVE = 32
"""Active codes at most, if their number is not given."""


class SaeTraining(Settings):
    """How a sparse autoencoder is trained."""

    model_config = ConfigDict(strict=True)  # True is no number

    variant: Annotated[
        Literal["topk", "vanilla"],
        setting("Sparse autoencoder: topk (Gao et al. 2024), or vanilla (Bricken et al. 2023)."),
    ] = "topk"
    active: Annotated[
        int | None,
        setting("Latents per vector with topk [a sixteenth of all, from 4 to 32].", ge=1),
    ] = None
    sparsity: Annotated[
        float, setting("Weight of the L1 norm of the codes with vanilla.", ge=0)
    ] = 0.2
    train_vectors: Annotated[
        int, setting("Activation vectors on which it is trained, repeated if fewer.", ge=1)
    ] = 2**20
    step_vectors: Annotated[int, setting("Vectors per step of the training.", ge=1)] = 512
    learning_rate: Annotated[float, setting("Learning rate of Adam.", gt=0, le=1)] = 2e-3
    resample: Annotated[bool, setting("Resample latents that no vector activates.")] = True

    @property
    def steps(self) -> int:
        """Number of steps."""
        return -(-self.train_vectors // self.step_vectors)

    def active_of(self, latents: int) -> int | None:
        """Return the number of codes that are not zero at most; None for a vanilla autoencoder.

        Raises
        ------
        RecipeError
            If it is larger than the number of latents.
        """
        if self.variant == "vanilla":
            return None
        if self.active is not None and self.active > latents:
            raise RecipeError(
                f"{self.active} active latents are asked for.",
                f"Expected at most {latents}: there are no more.",
                "Use fewer, or more latents.",
            )
        return self.active or min(latents, MOST_ACTIVE, max(4, latents // 16))


def train_sae(
    batches: Iterable[Float[Tensor, "_ c"]],
    sample: Float[Tensor, "n c"],
    latents: int,
    info: DictionaryInfo,
    training: SaeTraining | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Dictionary:
    """Train a sparse autoencoder by Adam.

    Vectors are divided by one number, so that their variance around the mean is 1, for learning
    rate and penalty to mean the same in all layers; the dictionary is that of the vectors as they
    are. Resampling follows Bricken et al. (2023): after each twentieth of the training, latents
    that had no code in it, until 60 % of it.

    Parameters
    ----------
    batches
        Endless random batches; only one is in memory at a time.
    sample
        A random sample of the vectors: gives mean and variance, replaces dead latents, and is
        what the numbers in the description are measured on.
    info
        Layer, order of axes and data; what the training decides is filled in.
    seed
        Of the initial directions and of resampling.

    Raises
    ------
    RecipeError
        If more latents are to be active than there are.
    """
    training = training or SaeTraining()
    active = training.active_of(latents)
    generator = torch.Generator().manual_seed(seed)
    # in float64: activations may share a large mean
    mean = sample.mean(0, dtype=torch.float64)
    variance = (sample.double() - mean).square().sum(-1).mean()
    scale = max(float(variance.sqrt()), 1e-12)
    directions = torch.randn(latents, sample.shape[1], generator=generator)
    autoencoder = SparseAutoencoder(directions, mean.float() / scale, active).to(device)
    unit = (sample.float() / scale).to(device)
    title = f"training sae:{latents} on {info.layer}"
    _train(autoencoder, _scaled(batches, scale, device), unit, training, generator, title)
    info = replace(
        info, kind=SAE, code="relu" if active is None else "topk", active=active, error=True,
        seed=seed, vectors=training.steps * training.step_vectors,
    )  # fmt: skip
    dictionary = autoencoder.to("cpu").dictionary(info, scale)
    dictionary.info = replace(info, **_measured(autoencoder, unit.cpu()))
    return dictionary


def _scaled(
    batches: Iterable[Tensor], scale: float, device: torch.device | str
) -> Iterator[Tensor]:
    return ((batch / scale).to(device) for batch in batches)


def _train(
    autoencoder: SparseAutoencoder,
    batches: Iterator[Tensor],
    sample: Tensor,
    training: SaeTraining,
    generator: torch.Generator,
    title: str,
) -> None:
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=training.learning_rate)
    steps = training.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (steps - step) / max(1.0, DECAY * steps))
    )
    interval = max(1, steps // CHECKS)
    used = torch.zeros(len(autoencoder.decoder), dtype=torch.bool, device=sample.device)
    report_progress(title, 0, steps)
    for step, x in zip(range(1, steps + 1), batches, strict=False):
        codes = autoencoder.encode(x)
        loss = autoencoder.loss(x, codes, training.sparsity)
        optimizer.zero_grad()
        loss.backward()
        autoencoder.project_gradient()
        optimizer.step()
        schedule.step()
        autoencoder.keep_unit_length()
        used |= (codes.detach() > 0).any(0)
        if step % interval == 0:
            if training.resample and step <= LAST_CHECK * steps and not bool(used.all()):
                resample(autoencoder, ~used, sample, optimizer, generator)
            used.zero_()
        report_progress(title, step, steps)


@torch.no_grad()
def _measured(autoencoder: SparseAutoencoder, sample: Tensor) -> dict[str, float | int]:
    """Return the share of the variance that is explained, and how codes are used."""
    left, codes_above_zero = 0.0, 0
    used = torch.zeros(len(autoencoder.decoder), dtype=torch.bool)
    for x in sample.split(ROWS):
        codes = autoencoder.encode(x)
        left += float((x - autoencoder.decode(codes)).double().square().sum())
        codes_above_zero += int((codes > 0).sum())
        used |= (codes > 0).any(0)
    centred = sample.double() - sample.mean(0, dtype=torch.float64)
    variance = max(float(centred.square().sum()), 1e-30)
    return {
        "explained": 1 - left / variance,
        "mean_active": codes_above_zero / len(sample),
        "dead": int((~used).sum()),
    }
