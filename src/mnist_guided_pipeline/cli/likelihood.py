"""``mnist-guided likelihood``: how likely a VAE finds the test set, filed and printed."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Literal

import tyro

from .options import check_writable, load_autoencoder, training_settings

__all__ = ["likelihood"]


def likelihood(
    vae: tyro.conf.Positional[str],
    binarisation: Literal["grey", "threshold", "stochastic"] = "grey",
    num_importance_samples: int = 200,
    num_images: int | None = None,
    output: Path = Path("metrics.json"),
    name: str | None = None,
    dataset_name: str = "ylecun/mnist",
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Measure a VAE's evidence lower bound and importance-weighted likelihood of the test set, file and print them.

    Only for variational autoencoders that were trained with --reconstruction bce: others define no likelihood of
    Bernoulli pixels. Figures of different binarisations do not compare.

    Example: mnist-guided study likelihood runs/vae --binarisation threshold --num_importance_samples 200

    Args:
        vae: Folder or Hub id of a VAE, or of a pipeline that has one.
        binarisation: What counts as an image: the grey values read as probabilities, pixels above one half, or one
            draw of each pixel.
        num_importance_samples: Draws an image; the bound rises with them towards the likelihood.
        num_images: The first this many test images; all of them if left out.
        output: File of measurements to add it to; all other runs in it stay.
        name: Name of the run in that file; likelihood/ and the name of the folder if left out.
        dataset_name: Hub id or folder of the data set.
        seed: Of the draws and of the stochastic binarisation.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
    """
    if num_importance_samples < 1:
        raise ValueError(f"--num_importance_samples must be at least 1 (200 is usual), got {num_importance_samples}.")
    check_writable(output.parent)
    from ..evaluation.records import public_name

    shown = public_name(vae)
    name = name or f"likelihood/{shown}-{binarisation}"
    network = load_autoencoder(vae, device)

    from ..data.images import load_images
    from ..evaluation.fingerprints import fingerprint
    from ..evaluation.likelihood import binarise, check_has_likelihood, image_likelihood, mean_figure
    from ..evaluation.records import check_name, machine, read_runs, versions, write_run
    from ..evaluation.tables import markdown_table

    check_has_likelihood(network, training_settings(vae).get("reconstruction"))
    check_name(name)
    read_runs(output)
    images = load_images(dataset_name, "test", max_samples=num_images).images
    found = image_likelihood(network, binarise(images, binarisation, seed), num_importance_samples, seed, progress=True)

    figures = {
        "reconstruction": mean_figure(found.reconstruction),
        "kl": mean_figure(found.kl),
        "negative_elbo": mean_figure(-found.elbo),
        "negative_log_likelihood": mean_figure(-found.importance_weighted),
    }
    settings = {
        "binarisation": binarisation,
        "num_importance_samples": num_importance_samples,
        "num_images": len(images),
        "seed": seed,
    }
    words = ["mnist-guided", "likelihood", shown]
    words += [word for option, value in settings.items() for word in (f"--{option}", str(value))]
    record = {
        "command": shlex.join([*words, "--dataset_name", public_name(dataset_name), "--name", name]),
        "model": {"name": shown, "fingerprint": fingerprint(network)},
        "dataset": {"name": public_name(dataset_name), "fingerprint": fingerprint(images)},
        "settings": settings,
        "versions": versions(),
        "machine": machine(network.device, 1),
        "figures": figures,
    }
    write_run(output, name, record)
    titles = {
        "reconstruction": "reconstruction",
        "kl": "KL",
        "negative_elbo": "-ELBO",
        "negative_log_likelihood": f"NLL, {num_importance_samples} importance samples",
    }
    rows = [["nats an image", "mean", "standard error"]]
    for key, row in figures.items():
        error = row["standard_error"]
        rows.append([titles[key], f"{row['value']:.2f}", "" if error is None else f"{error:.2f}"])
    print(markdown_table(rows))
    print(f"{shown}: {len(images):,} test images, binarisation {binarisation}; filed as {name} in {output}.")
