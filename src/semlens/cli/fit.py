"""``semlens db fit``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from semlens.cli.build_inputs import load_sources
from semlens.cli.command import with_fields
from semlens.cli.output import JsonOption, err, print_json, print_written, report_errors, table
from semlens.dictionaries.train_sae import SaeTraining
from semlens.types import Layout


@report_errors
@with_fields(SaeTraining, last=True)
def fit(
    file: Annotated[Path, typer.Argument(help="File to write, which ends in .safetensors.")],
    model: Annotated[str, typer.Option(help="Subject model, as for build.")],
    data: Annotated[
        list[str], typer.Option(help="Images, in the forms that build takes; can be repeated.")
    ],
    layer: Annotated[str, typer.Option(help="Name of the layer; see 'semlens layers MODEL'.")],
    components: Annotated[
        str, typer.Option(help="What to fit: sae:N, nmf:N, semi-nmf:N, pca:N or kmeans:N.")
    ] = "sae:256",
    seed: Annotated[int, typer.Option(help="Random seed.", min=0)] = 0,
    layout: Annotated[
        Layout, typer.Option(help="Order of a feature map's axes, if it cannot be inferred.")
    ] = "auto",
    random_weights: Annotated[
        int | None, typer.Option(help="Use the untrained architecture, initialized with this seed.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images per forward pass.")] = 32,
    workers: Annotated[
        int, typer.Option(help="Threads that decode images; -1 means one per core.")
    ] = -1,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, cuda:1 or mps [cuda if available, else cpu].")
    ] = None,
    as_json: JsonOption = False,
    **options: Any,
) -> None:
    """Fit directions of a layer, such as a sparse autoencoder, into a file.

    Builds of the same model take it: --components sae:FILE. It holds the fingerprint of the
    model, and is refused for another one.

    Examples:

    semlens db fit sae.safetensors --model torchvision/resnet18:IMAGENET1K_V1 --data photos/
    --layer layer4 --components sae:2048

    semlens db fit nmf.safetensors --model semlens/demo --data images/ --layer layer3
    --components nmf:16 --json
    """
    import torch

    from semlens.models.load import load_model
    from semlens.run.dictionaries import fit as fit_file
    from semlens.run.plan import Execution

    given = {name: value for name, value in options.items() if value is not None}
    training = SaeTraining(**given) if given else None
    images = load_sources(data)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with err.status("loading the model"):
        subject = load_model(model, random_weights=random_weights, device=device)
    fitted = fit_file(
        file, subject, images, layer, components, training=training, seed=seed, layout=layout,
        execution=Execution(batch_size, workers),
    )  # fmt: skip
    if as_json:
        print_json(fitted.to_json())
        return
    table(fitted.frame, f"directions of {model}")
    print_written(fitted.path)
