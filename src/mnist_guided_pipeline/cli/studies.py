"""``mnist-guided study NAME`` measures several things alike and files the table, ``benchmark`` times them."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..data import DEFAULT_DATASET
from ..storage.places import public_name
from .options import (
    DatasetName,
    Device,
    MeasuringOptions,
    Model,
    Seed,
    check_figure,
    check_measurements,
    check_model,
    check_packages,
    check_range,
    load_autoencoder,
    load_image_maker,
    load_pipeline,
    load_points_pipeline,
    training_settings,
)

_SHOWN = 20  # images of a row of a figure
_Options = Annotated[MeasuringOptions, tyro.conf.arg(name="", help="Shared by the commands that measure images.")]
_Output = Annotated[Path, tyro.conf.arg(help="File of measurements to add the table to; all other runs in it stay.")]
_Picture = Annotated[Path | None, tyro.conf.arg(help="Picture to write.")]


def systems(
    model: tuple[str, ...],
    figure: _Picture = None,
    options: _Options = MeasuringOptions(),  # noqa: B008 - it is frozen
) -> None:
    """Compare kinds of generative models: quality, variety, speed of sampling, parameters and training time.

    The pipeline that is shipped with the package stands beside them where none of them is a pipeline with an
    autoencoder, and the data are of its size. The time of a training is read from its history, and is that of the
    machine it ran on. Pipelines of points in the plane have a table of their own: the distance is that of figure
    points, num_images counts points.

    Example: mnist-guided study systems --model runs/vae runs/gan runs/pixel-unet --figure systems.png

    Args:
        model: Folders of autoencoders and generators of GANs, folders or Hub ids of pipelines.
    """
    options.check(None, figure)
    for path in model:
        if not Path(path, "config.json").is_file():
            check_model(path)

    from ..data.images import IMAGE_SIZE
    from ..data.points import is_point_set
    from ..evaluation.samples import SamplingSettings
    from ..evaluation.studies import compare_points, file_tables, measure_system, real_images_row
    from ..figures.images import image_rows, save_figure

    device, count, seed = options.own_device(), options.num_images, options.seed
    settings = {"num_images": count, "seed": seed}
    of_points = [path for path in model if is_point_set(training_settings(path).get("dataset_name") or "")]
    if of_points:
        if len(of_points) < len(model) or figure is not None:
            raise ValueError(f"--model {of_points[0]!r} makes points; leave out --figure, and models of images.")
        loaded = [load_points_pipeline(path, None, count, device) for path in model]
        rows = compare_points(dict(zip(_row_names(model), loaded, strict=True)), count, seed)
        pipes = [pipe for pipe, _ in loaded]
        file_tables(options.output, "study-points", {"rows": rows}, settings, pipes, device=device)
        return
    reference = options.reference()
    sampling = SamplingSettings(count, seed, reference.class_weights)
    drawn: dict[str, Any] = {}
    rows = {}
    as_shipped = reference.test.image_shape == (1, IMAGE_SIZE, IMAGE_SIZE)
    for source in (*model, None):
        if source is None and (not as_shipped or any(name.startswith("latent diffusion") for name in drawn)):
            continue
        is_network = source is not None and Path(source, "config.json").is_file()
        found = load_image_maker(str(source), device) if is_network else load_pipeline(source, device)
        kind, images, row = measure_system(found, sampling, reference)
        name = f"{kind} {'as shipped' if source is None else public_name(source)}"
        drawn[name], rows[name] = images, row
    rows["real training images"] = real_images_row(reference, count)
    file_tables(options.output, "study-systems", {"rows": rows}, settings, drawn.values(), reference, device)
    if figure is not None:
        pictures = [each[:_SHOWN].numpy() for each in (*drawn.values(), reference.test.images)]
        save_figure(image_rows(pictures, [*drawn, "test images"]), figure)
        print(f"{figure}: a row of samples of each.")


def autoencoders(
    model: tuple[str, ...],
    figure: _Picture = None,
    options: _Options = MeasuringOptions(num_images=10_000),  # noqa: B008
) -> None:
    """Compare trained autoencoders: how they copy test images, and what draws of their latent space are worth.

    Draws are taken from N(0, I), which is the prior of a VAE and means nothing to a plain autoencoder, and from a
    Gaussian fitted to the latents of the training images afterwards, which is fair to both.

    Example: mnist-guided study autoencoders --model runs/vae runs/ae --figure autoencoders.png

    Args:
        model: Folders or Hub ids of autoencoders, or of pipelines that have one.
    """
    options.check(None, figure)
    names = _row_names(model)
    count, seed = options.num_images, options.seed

    from ..data.posteriors import decode_images, reconstruct
    from ..evaluation.autoencoders import fitted_draws, measure_autoencoder, prior_draws
    from ..evaluation.studies import file_tables
    from ..figures.images import image_rows, save_figure

    recipes = {label: training_settings(path) for label, path in zip(names, model, strict=True)}
    networks = {label: load_autoencoder(path, options.device) for label, path in zip(names, model, strict=True)}
    reference = options.reference()
    first = reference.test.images[:_SHOWN]
    rows, pictures = {}, {"original": first}
    for label, network in networks.items():
        rows[label] = {
            "network": type(network).__name__,
            "reconstruction_loss": recipes[label].get("reconstruction"),
            "kl_weight": recipes[label].get("kl_weight") if network.config.variational else None,
            **measure_autoencoder(network, reference, count, seed),
        }
        pictures[f"{label}: reconstructed"] = reconstruct(network, first)
        pictures[f"{label}: drawn from N(0, I)"] = decode_images(network, prior_draws(network, _SHOWN, seed))
        fitted = fitted_draws(network, reference.train.images, _SHOWN, seed)
        pictures[f"{label}: fitted Gaussian"] = decode_images(network, fitted)
    settings, device = {"num_images": count, "seed": seed}, options.own_device()
    file_tables(options.output, "autoencoders", {"rows": rows}, settings, networks.values(), reference, device)
    if figure is not None:
        save_figure(image_rows([images.numpy() for images in pictures.values()], list(pictures)), figure)
        print(f"{figure}: test images, reconstructions, and samples of both Gaussians.")


def guide(
    model: Model = None,
    num_test_images: int = 2_000,
    guidance_scale: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
    cfg_scale: float = 1.0,
    compared_with: str | None = None,
    num_updates: int = 1_000,
    figure: _Picture = None,
    options: _Options = MeasuringOptions(),  # noqa: B008
) -> None:
    """Measure the guide of a pipeline.

    Accuracy, calibration and gradient over the noise; its own accuracy on guided images beside the judge's, over the
    guidance scale; and how a trained gradient differs from the exact one where that is known.

    Example: mnist-guided study guide --figure guide.png --output metrics.json

    Args:
        num_test_images: Test images read at each noise level.
        guidance_scale: Scales to draw at.
        cfg_scale: Classifier-free weight of the drawn images; 0 leaves the label to the guide alone.
        compared_with: Folder or Hub id of another pipeline, whose errors of the gradient are drawn too.
        num_updates: Of the two small classifiers that are trained where the exact gradient is known.
    """
    options.check(model, figure)
    check_range("num_test_images", num_test_images, 1)
    check_range("num_updates", num_updates, 1)

    from ..evaluation.guide import gradient_errors, guide_by_noise, guide_hacking, learned_scores
    from ..evaluation.studies import file_tables
    from ..sampling.arguments import parse_scales

    parse_scales("guidance_scale", guidance_scale, len(guidance_scale))
    reference, pipe = options.reference(), load_pipeline(model, options.device)
    reference.check_fits(pipe)
    count, seed = options.num_images, options.seed
    images, labels = reference.test.images[:num_test_images], reference.test.labels[:num_test_images]
    test = replace(reference.test, images=images, labels=labels)
    figures: dict[str, Any] = {
        "by_noise": guide_by_noise(pipe, test, seed=seed),
        "hacking": guide_hacking(pipe, reference.judge, count, guidance_scale, cfg_scale, seed),
        "learned_scores": learned_scores(num_updates=num_updates, seed=seed),
        "gradient_errors": {},
    }
    others = {"other: ": load_pipeline(compared_with, options.device)} if compared_with else {}
    for label, other in {"": pipe, **others}.items():
        if other.denoiser_is_conditional and other.config.training_noise["law"] == "preserving":
            found = gradient_errors(other, test, seed=seed)
            figures["gradient_errors"] |= {f"{label}on {name}": rows for name, rows in found.items()}
    settings = {"num_test_images": num_test_images, "num_images": count, "cfg_scale": cfg_scale}
    settings |= {"num_updates": num_updates, "seed": seed}
    file_tables(options.output, "guide-report", figures, settings, pipe, reference)
    if figure is not None:
        from ..figures.curves import guide_report_figure
        from ..figures.images import save_figure

        save_figure(guide_report_figure(**figures), figure)


def scales(
    output: _Output = Path("metrics.json"),
    guidance_scale: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0),
    num_samples: int = 2_500,
    num_particles: int = 16,
    num_inference_steps: int = 400,
    seed: Seed = 0,
    figure: _Picture = None,
) -> None:
    """Compare plain guidance and weighted particles with p(x) p(y | x)^s, where all is known.

    Exact networks of a Gaussian mixture in the plane, DDPM; the truth is a sum over a fine grid.

    Example: mnist-guided study scales --output metrics.json --figure scales.png

    Args:
        guidance_scale: Scales s; the figure shows the last one.
        num_samples: Samples of each scale and class.
        num_particles: Particles of each of them.
        num_inference_steps: Steps of the scheduler.
    """
    check_measurements(output)
    if figure is not None:
        check_figure(figure, force=True)
    settings = {"num_samples": num_samples, "num_particles": num_particles, "num_inference_steps": num_inference_steps}
    for name, count in settings.items():
        check_range(name, count, 1)

    from ..evaluation.oracle import draw_tilted, exact_samples, measure_scales
    from ..evaluation.studies import file_tables
    from ..sampling.arguments import parse_scales

    parse_scales("guidance_scale", guidance_scale, len(guidance_scale))
    rows = measure_scales(guidance_scale, **settings, seed=seed)
    file_tables(output, "study-scales", {"rows": rows}, {**settings, "seed": seed}, ())
    if figure is not None:
        import numpy as np

        from ..figures.images import save_figure
        from ..figures.points import point_panels

        scale, count = guidance_scale[-1], min(num_samples, 1_000)
        truth = draw_tilted(scale, 1, count, seed)
        panels = [(f"plain guidance, s = {scale:g}", 1), (f"{num_particles} particles, s = {scale:g}", num_particles)]
        drawn = [(title, exact_samples(scale, 1, count, k, num_inference_steps, seed)) for title, k in panels]
        shown = [("p(x) p(y | x)^s", truth), *drawn]
        save_figure(point_panels(shown, np.zeros(count, dtype=int), ("",), truth), figure)


def schedulers(
    model: Model = None,
    options: _Options = MeasuringOptions(),  # noqa: B008
) -> None:
    """Measure every supported scheduler.

    Its error with exact networks at 10, 25 and 50 steps, and what it makes of a trained pipeline at 10 and 25 steps.

    Example: mnist-guided study schedulers --output metrics.json
    """
    options.check(model)
    check_packages(("scipy", "torchsde"), "schedulers")

    from ..evaluation.oracle import measure_schedulers
    from ..evaluation.studies import file_tables

    reference, pipe = options.reference(), load_pipeline(model, options.device)
    reference.check_fits(pipe)
    table = measure_schedulers(pipe, reference, options.num_images, options.seed)
    settings = {"num_images": options.num_images, "seed": options.seed}
    file_tables(options.output, "scheduler-table", {"rows": table}, settings, pipe, reference)


def benchmark(
    what: tyro.conf.Positional[Literal["sampling", "training"]],
    output: _Output = Path("metrics.json"),
    rounds: int = 5,
    model: Model = None,
    num_images: int = 10_000,
    device: Device = None,
    scripts: Path = Path("training"),
    dataset_name: DatasetName = DEFAULT_DATASET,
    num_train_epochs: int | None = None,
) -> None:
    """Time one thing beside what it is compared with, and file it.

    sampling: a pipeline beside a hand-written loop, diffusers' pixel-space pipeline and a matrix product. training: the
    scripts beside a notebook's loops, with the same networks, until the loss is the same. All are timed in turn, round
    after round. Run it while nothing else does.

    Example: mnist-guided benchmark sampling --output metrics.json

    Args:
        what: What is timed.
        rounds: Timed rounds.
        num_images: Images of a round of sampling.
        scripts: Folder of the training scripts, in a checkout of the repository.
        num_train_epochs: Passes over the training set, for each network and way; the preset's own if left out.
    """
    check_range("rounds", rounds, 1)
    check_range("num_images", num_images, 1)
    check_range("num_train_epochs", 1 if num_train_epochs is None else num_train_epochs, 1)
    check_measurements(output)
    if what == "training" and not (scripts / "train_vae.py").is_file():
        raise FileNotFoundError(
            f"--scripts {str(scripts)!r} has no train_vae.py; give the training folder of a checkout."
        )
    pipe = load_pipeline(model, device) if what == "sampling" else None

    from ..evaluation.studies import file_tables

    settings: dict[str, Any] = {"rounds": rounds}
    if what == "sampling":
        from ..benchmarks.sampling import benchmark_sampling

        settings["num_images"] = num_images
        figures = benchmark_sampling(pipe, num_images, rounds)
    else:
        from ..benchmarks.training import benchmark_training

        settings["num_train_epochs"] = num_train_epochs
        with tempfile.TemporaryDirectory() as folder:
            figures = benchmark_training(scripts, dataset_name, num_train_epochs, rounds, Path(folder))
    file_tables(output, f"benchmark-{what}", figures, settings, pipe)


def _row_names(model: tuple[str, ...]) -> list[str]:
    """The names of the models' folders, which name the rows of a table."""
    names = [Path(path).name for path in model]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"--model must name one model or several of different names, got {', '.join(names) or 'none'}."
        )
    return names
