"""``mnist-guided study systems``: autoencoder, VAE, GAN, pixel diffusion and latent diffusion, side by side."""

from __future__ import annotations

import os
import shlex
from importlib.util import find_spec
from pathlib import Path

from .figures import check_has_prior
from .options import check_figure, check_model, check_writable, load_autoencoder, load_pipeline, save_figure

__all__ = ["systems"]

_SHOWN = 20  # images of a row of the picture


def systems(
    autoencoder: str | None = None,
    vae: str | None = None,
    gan: str | None = None,
    pixel: str | None = None,
    latent: str | None = None,
    output: Path = Path("metrics.json"),
    figure: Path = Path("study-systems.png"),
    num_images: int = 1_000,
    seed: int = 0,
    dataset_name: str = "ylecun/mnist",
    judge: Path | None = None,
    cache_dir: Path | None = None,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Compare kinds of generative models: quality, variety, speed of sampling, parameters and training time.

    The time of a training is read from its history, and is that of the machine it ran on.

    Example: mnist-guided study systems --vae runs/vae --gan runs/gan --pixel runs/pixel-unet

    Args:
        autoencoder: Folder of a plain autoencoder; what is left out is not compared.
        vae: Folder of a variational one.
        gan: Folder of a GAN's generator.
        pixel: Folder of a pipeline without an autoencoder.
        latent: Folder of a pipeline with one; that shipped with the package if left out.
        output: File of measurements to add the table to; all other runs in it stay.
        figure: Picture to write, a row of samples a model.
        num_images: Images of each.
        seed: Of the draws.
        dataset_name: Hub id or folder of the data set that they were trained on.
        judge: Folder of a judge, from train_judge.py; the one shipped with the package if left out.
        cache_dir: Folder where drawn images of pipelines are kept; below ~/.cache if left out.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the figure.
    """
    check_figure(figure, force)
    check_writable(output.parent)
    given = {"autoencoder": autoencoder, "vae": vae, "gan": gan, "pixel": pixel}
    if not any(given.values()):
        raise ValueError(f"Give one of --{', --'.join(given)} at least, to compare with --latent.")
    for name, path in given.items():
        if path is not None and name in ("autoencoder", "vae"):
            check_model(path, "config.json", "vae/config.json", what="autoencoder")
    for path in filter(None, (pixel, latent)):
        check_model(path)
    if judge is not None and not (judge / "config.json").is_file():
        raise FileNotFoundError(f"--judge {str(judge)!r} has no config.json: it is not the folder of a judge.")
    if find_spec("torchmetrics") is None:
        raise ValueError("study systems needs torchmetrics: pip install 'mnist-guided-pipeline[evaluation]'.")

    from ..data.images import load_images
    from ..evaluation.fingerprints import fingerprint
    from ..evaluation.judge import Judge, load_judge
    from ..evaluation.records import public_name, read_runs
    from ..evaluation.samples import SamplingSettings
    from ..evaluation.scores import Reference, check_enough
    from ..evaluation.studies import check_judge, file_table
    from ..evaluation.systems import compare_systems, draw_autoencoder, draw_gan, draw_pipeline
    from ..evaluation.tables import render_view
    from ..figures.images import image_rows
    from ..models.gan import GANGenerator
    from ..storage.loading import load_network
    from ..training.history import training_seconds

    read_runs(output)
    measuring = load_judge() if judge is None else Judge.from_pretrained(judge)
    train, test = (load_images(dataset_name, split) for split in ("train", "test"))
    check_judge(measuring, test.class_names)
    check_enough(num_images, len(test.class_names))
    settings = SamplingSettings(num_images, seed)
    drawn = {}
    where: dict[str, str | None] = {}
    if autoencoder is not None:
        network = load_autoencoder(autoencoder, device)
        if network.config.variational:
            raise ValueError(f"--autoencoder {autoencoder!r} is variational; give it as --vae.")
        name = f"autoencoder {public_name(autoencoder)}"
        drawn[name], where[name] = draw_autoencoder(network, train.images, num_images, seed), autoencoder
    if vae is not None:
        network = load_autoencoder(vae, device)
        check_has_prior(network)
        name = f"VAE {public_name(vae)}"
        drawn[name], where[name] = draw_autoencoder(network, train.images, num_images, seed), vae
    if gan is not None:
        network = load_network(gan)
        if not isinstance(network, GANGenerator):
            raise ValueError(f"--gan {gan!r} holds a {type(network).__name__}, which is no generator of a GAN.")
        name = f"GAN {public_name(gan)}"
        drawn[name], where[name] = draw_gan(network.to(measuring.model.device), num_images, seed), gan
    for kind, path in (("pixel", pixel), ("latent", latent)):
        if kind == "pixel" and path is None:
            continue
        pipe = load_pipeline(path, device)
        if (pipe.vae is None) is not (kind == "pixel"):
            raise ValueError(f"--{kind} {path!r} is a pipeline with{'out' if pipe.vae is None else ''} an autoencoder.")
        name = f"{kind} diffusion {'as shipped' if path is None else public_name(path)}"
        drawn[name], where[name] = draw_pipeline(pipe, settings, cache_dir), path
    seconds = {name: training_seconds(path) if path and os.path.isdir(path) else None for name, path in where.items()}
    reference = Reference.of(train, test, measuring)
    rows = compare_systems([(name, images, seconds[name]) for name, images in drawn.items()], reference, measuring)

    words = ["mnist-guided", "study", "systems", "--num_images", str(num_images), "--seed", str(seed)]
    for option, path in {**given, "latent": latent, "judge": None if judge is None else str(judge)}.items():
        words += [f"--{option}", public_name(path)] if path else []
    file_table(
        output,
        "study-systems",
        shlex.join(words),
        rows,
        measuring,
        (train, test),
        dataset_name,
        fingerprint(*(system.images for system in drawn.values())),
        {"num_images": num_images, "seed": seed},
    )
    print(render_view(read_runs(output), "study-systems", "rows"))
    pictures = [system.images[:_SHOWN].numpy() for system in drawn.values()]
    save_figure(image_rows([*pictures, test.images[:_SHOWN].numpy()], [*drawn, "test images"]), figure)
    print(f"{figure}: a row of samples of each.")
