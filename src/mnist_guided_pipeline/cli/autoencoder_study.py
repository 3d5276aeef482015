"""``mnist-guided study autoencoders``: several trained autoencoders, measured alike and shown side by side."""

from __future__ import annotations

import shlex
from importlib.util import find_spec
from pathlib import Path

import tyro

from .options import check_figure, check_model, check_writable, load_autoencoder, save_figure, training_settings

__all__ = ["autoencoders"]

_SHOWN = 12  # images of a row of the picture


def autoencoders(
    runs: tyro.conf.Positional[tuple[str, ...]],
    output: Path = Path("metrics.json"),
    picture: Path | None = None,
    name: str = "autoencoders",
    num_images: int = 10_000,
    dataset_name: str = "ylecun/mnist",
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Compare trained autoencoders: how they copy test images, and what draws of their latent space are worth.

    Draws are taken from N(0, I), which is the prior of a VAE and means nothing to a plain autoencoder, and from a
    Gaussian fitted to the latents of the training images afterwards, which is fair to both.

    Example: mnist-guided study autoencoders runs/vae runs/ae --picture autoencoders.png

    Args:
        runs: Folders or Hub ids of autoencoders, or of pipelines that have one.
        output: File of measurements to add the table to; all other runs in it stay.
        picture: Picture to write as well: of each, reconstructions and samples.
        name: Name of the table in that file.
        num_images: Samples drawn from each Gaussian.
        dataset_name: Hub id or folder of the data set that they were trained on.
        seed: Of the draws.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the picture.
    """
    if not runs:
        raise ValueError("runs must name at least one autoencoder, such as runs/vae.")
    for run in runs:
        check_model(run, "config.json", "vae/config.json", what="autoencoder")
    from ..evaluation.records import public_name

    shown = [public_name(run) for run in runs]
    if len(set(shown)) < len(shown):
        raise ValueError(f"runs must have different names, got {', '.join(shown)}.")
    check_writable(output.parent)
    if picture is not None:
        check_figure(picture, force)
    if find_spec("torchmetrics") is None:
        raise ValueError("study autoencoders needs torchmetrics: pip install 'mnist-guided-pipeline[evaluation]'.")

    from ..data.images import load_images
    from ..evaluation.autoencoders import (
        decode_images,
        fitted_draws,
        measure_autoencoder,
        prior_draws,
        reconstruct,
        table_of_autoencoders,
    )
    from ..evaluation.fingerprints import fingerprint
    from ..evaluation.judge import load_judge
    from ..evaluation.records import check_name, machine, read_runs, versions, write_run
    from ..evaluation.scores import Reference, check_enough

    check_name(name)
    read_runs(output)
    networks = {label: load_autoencoder(run, device) for label, run in zip(shown, runs, strict=True)}
    train, test = (load_images(dataset_name, split) for split in ("train", "test"))
    check_enough(num_images, len(test.class_names))
    judge = load_judge()
    reference = Reference.of(train, test, judge)
    first = test.images[:_SHOWN]
    figures, rows = {}, [("original", first)]
    for (label, network), run in zip(networks.items(), runs, strict=True):
        settings = training_settings(run)
        figures[label] = {
            "network": type(network).__name__,
            "variational": network.config.variational,
            "kl_weight": settings.get("kl_weight"),
            "reconstruction": settings.get("reconstruction"),
            **measure_autoencoder(network, reference, judge, num_images, seed),
        }
        rows += [
            (f"{label}: reconstructed", reconstruct(network, first)),
            ("drawn from N(0, I)", decode_images(network, prior_draws(network, _SHOWN, seed))),
            ("fitted Gaussian", decode_images(network, fitted_draws(network, train.images, _SHOWN, seed))),
        ]
    words = ["mnist-guided", "study", "autoencoders", *shown, "--name", name, "--num_images", str(num_images)]
    record = {
        "command": shlex.join([*words, "--seed", str(seed), "--dataset_name", public_name(dataset_name)]),
        "model": {"name": ", ".join(shown), "fingerprint": fingerprint(*networks.values())},
        "judge": {"name": "shipped", "fingerprint": fingerprint(judge.model)},
        "dataset": {
            "name": public_name(dataset_name),
            "fingerprint": fingerprint(train.images, train.labels, test.images, test.labels),
        },
        "settings": {"num_images": num_images, "seed": seed},
        "versions": versions(),
        "machine": machine(next(iter(networks.values())).device, 1),
        "figures": figures,
    }
    write_run(output, name, record)
    print(table_of_autoencoders(figures))
    if picture is not None:
        from ..figures.images import image_rows

        save_figure(image_rows([images.numpy() for _, images in rows], [label for label, _ in rows]), picture)
        print(f"{picture}: test images, reconstructions, and samples of both Gaussians.")
