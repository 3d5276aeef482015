"""``mnist-guided study NAME`` measures several things alike and files the table, ``benchmark NAME`` times them."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..storage.places import public_name
from .evaluate import MeasuringOptions
from .options import (
    check_model,
    check_packages,
    check_writable,
    load_autoencoder,
    load_pipeline,
    save_figure,
    training_settings,
)
from .points import agreement, draw_points, load_points_pipeline, real_points

__all__ = [
    "autoencoders",
    "benchmark_sampling",
    "benchmark_training",
    "guide",
    "likelihood",
    "points",
    "sampling",
    "schedulers",
    "systems",
]

_SHOWN = 20  # images of a row of a figure
_Options = Annotated[MeasuringOptions, tyro.conf.arg(name="")]


def sampling(
    name: Literal["steps", "eta", "scale", "spacing", "mean-only"],
    model: str | None = None,
    num_inference_steps: tuple[int, ...] = (),
    guidance_scale: tuple[float, ...] = (),
    figure: Path | None = None,
    options: _Options = MeasuringOptions(),  # noqa: B008 - it is frozen
) -> None:
    """Vary one setting of the sampling; all else, the noise of every image included, stays.

    steps: DDPM against DDIM, by the number of steps. eta: noise in the steps of DDIM. scale: guidance scales, with a
    denoiser that knows the label and without. spacing: where the steps of DPM-Solver++ lie. mean-only: DDPM without its
    noise. Other grids are those of mnist-guided evaluate, which figure sweep draws.

    Example: mnist-guided study sampling --name eta --figure eta.png

    Args:
        name: Which study.
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        num_inference_steps: Numbers of steps in place of the study's own.
        guidance_scale: Scales in place of the study's own.
        figure: Picture to write.
        options: Shared by the commands that measure images.
    """
    options.check(model, figure)

    from ..evaluation.samples import SamplingSettings, draw_images
    from ..evaluation.studies import GRIDS, check_sweep, grid, measure_runs, without_noise
    from ..evaluation.tables import render_view

    study = f"study-{name}"
    axes = dict(GRIDS[name])
    axes |= {"num_inference_steps": num_inference_steps} if num_inference_steps else {}
    axes |= {"guidance_scale": guidance_scale} if guidance_scale else {}
    base = SamplingSettings(options.num_images, options.seed)
    grid(base, axes, study)  # bad values are found before the work
    reference, pipe = options.reference(), load_pipeline(model, options.device)
    if not pipe.denoiser_is_conditional:
        axes.pop("cfg_scale", None)
    records: dict[str, dict[str, Any]] = {}
    shown = {}

    def measure(runs: dict[str, SamplingSettings]) -> None:
        records.update(measure_runs(pipe, runs, reference, options.output, options.cache_dir, again=options.force))
        for run, settings in runs.items():
            images = draw_images(pipe, settings, options.cache_dir, progress=False).images()  # from the cache
            shown[run.rpartition("/")[2]] = images[:_SHOWN].numpy()

    base = replace(base, class_weights=reference.class_weights)
    measure(grid(base, axes, study))
    if name == "mean-only":
        with without_noise(pipe):
            steps = axes["num_inference_steps"][0]
            measure({f"{study}/scheduler=DDPMScheduler,adds_noise=False": replace(base, num_inference_steps=steps)})
    check_sweep(records, study)
    print(render_view(records, study))
    if figure is None:
        return
    if name == "mean-only":
        from ..figures.images import image_rows

        save_figure(image_rows(list(shown.values()), list(shown)), figure)
    else:
        from ..figures.curves import sweep_figure

        save_figure(sweep_figure(records), figure)
    print(f"{figure}: {len(records)} runs of {options.num_images} images.")


def systems(
    model: tuple[str, ...],
    figure: Path | None = None,
    options: _Options = MeasuringOptions(),  # noqa: B008
) -> None:
    """Compare kinds of generative models: quality, variety, speed of sampling, parameters and training time.

    The pipeline that is shipped with the package stands beside them where none of them is a pipeline with an
    autoencoder. The time of a training is read from its history, and is that of the machine it ran on.

    Example: mnist-guided study systems --model runs/vae runs/gan runs/pixel-unet --figure systems.png

    Args:
        model: Folders or Hub ids of autoencoders, generators of GANs and pipelines.
        figure: Picture to write, a row of samples per model.
        options: Shared by the commands that measure images.
    """
    options.check(None, figure)
    for path in model:
        _check_model(path)

    from ..evaluation.records import fingerprint
    from ..evaluation.samples import SamplingSettings
    from ..evaluation.studies import (
        SystemImages,
        compare_systems,
        draw_autoencoder,
        draw_gan,
        draw_pipeline,
        file_table,
    )
    from ..evaluation.tables import render_view
    from ..models.gan import GANGenerator
    from ..storage.pipelines import load_network
    from ..training.history import training_seconds

    reference = options.reference()
    device, count, seed = options.own_device(), options.num_images, options.seed
    drawn: dict[str, SystemImages] = {}
    seconds: dict[str, float | None] = {}

    def add(kind: str, path: str | None, images: SystemImages) -> None:
        name = f"{kind} {'as shipped' if path is None else public_name(path)}"
        drawn[name], seconds[name] = images, None if path is None else training_seconds(path)

    def add_pipeline(path: str | None) -> bool:
        pipe = load_pipeline(path, device)
        settings = SamplingSettings(count, seed, reference.class_weights)
        add(
            "pixel diffusion" if pipe.vae is None else "latent diffusion",
            path,
            draw_pipeline(pipe, settings, options.cache_dir),
        )
        return pipe.vae is not None

    has_latent = False
    for path in model:
        if not os.path.isdir(path) or (Path(path) / "model_index.json").is_file():
            has_latent |= add_pipeline(path)
            continue
        network = load_network(path).to(device)
        if isinstance(network, GANGenerator):
            add("GAN", path, draw_gan(network, count, seed, reference.class_weights))
        elif hasattr(network, "decode_logits"):
            kind = "VAE" if network.config.variational else "autoencoder"
            add(kind, path, draw_autoencoder(network, reference.train.images, count, seed))
        else:
            raise ValueError(f"--model {path!r} holds a {type(network).__name__}, which draws no images by itself.")
    if not has_latent:
        add_pipeline(None)
    rows = compare_systems([(name, images, seconds[name]) for name, images in drawn.items()], reference)
    settings = {"num_images": count, "seed": seed}
    networks = fingerprint(*(system.images for system in drawn.values()))
    record = file_table(options.output, "study-systems", rows, settings, networks, reference)
    print(render_view({"study-systems": record}, "study-systems", "rows"))
    if figure is not None:
        from ..figures.images import image_rows

        pictures = {name: system.images[:_SHOWN].numpy() for name, system in drawn.items()}
        pictures["test images"] = reference.test.images[:_SHOWN].numpy()
        save_figure(image_rows(list(pictures.values()), list(pictures)), figure)
        print(f"{figure}: a row of samples of each.")


def autoencoders(
    model: tuple[str, ...],
    name: str = "autoencoders",
    figure: Path | None = None,
    options: _Options = MeasuringOptions(num_images=10_000),  # noqa: B008
) -> None:
    """Compare trained autoencoders: how they copy test images, and what draws of their latent space are worth.

    Draws are taken from N(0, I), which is the prior of a VAE and means nothing to a plain autoencoder, and from a
    Gaussian fitted to the latents of the training images afterwards, which is fair to both.

    Example: mnist-guided study autoencoders --model runs/vae runs/ae --figure autoencoders.png

    Args:
        model: Folders or Hub ids of autoencoders, or of pipelines that have one.
        name: Name of the table in the output.
        figure: Picture to write: of each, reconstructions and samples.
        options: Shared by the commands that measure images.
    """
    options.check(None, figure)
    names = _row_names(model)
    for path in model:
        check_model(path, "config.json", "vae/config.json", what="autoencoder")

    from ..data.posteriors import decode_images, reconstruct
    from ..evaluation.autoencoders import fitted_draws, measure_autoencoder, prior_draws
    from ..evaluation.records import check_name, fingerprint
    from ..evaluation.studies import file_table
    from ..evaluation.tables import render_view

    check_name(name)
    reference = options.reference()
    networks = {label: load_autoencoder(path, options.device) for label, path in zip(names, model, strict=True)}
    first, seed = reference.test.images[:_SHOWN], options.seed
    rows, pictures = {}, {"original": first}
    for (label, network), path in zip(networks.items(), model, strict=True):
        trained_with = training_settings(path)
        rows[label] = {
            "network": type(network).__name__,
            "reconstruction_loss": trained_with.get("reconstruction"),
            "kl_weight": trained_with.get("kl_weight") if network.config.variational else None,
            **measure_autoencoder(network, reference, options.num_images, seed),
        }
        pictures[f"{label}: reconstructed"] = reconstruct(network, first)
        pictures[f"{label}: drawn from N(0, I)"] = decode_images(network, prior_draws(network, _SHOWN, seed))
        fitted = fitted_draws(network, reference.train.images, _SHOWN, seed)
        pictures[f"{label}: fitted Gaussian"] = decode_images(network, fitted)
    settings = {"num_images": options.num_images, "seed": seed}
    record = file_table(options.output, name, rows, settings, fingerprint(*networks.values()), reference)
    print(render_view({name: record}, name, "rows"))
    if figure is not None:
        from ..figures.images import image_rows

        save_figure(image_rows([images.numpy() for images in pictures.values()], list(pictures)), figure)
        print(f"{figure}: test images, reconstructions, and samples of both Gaussians.")


def points(
    model: tuple[str, ...],
    output: Path = Path("metrics.json"),
    num_points: int = 2_000,
    num_inference_steps: int | None = None,
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Distance from the data, time to draw and time to train of pipelines of points, a row per pipeline.

    The distance is that of figure points; its floor is the distance of other real points.

    Example: mnist-guided study points --model runs/points-dino runs/points-moons --output metrics.json

    Args:
        model: Folders that train_pipeline.py wrote by presets of points.
        output: File of measurements to add the table to; all other runs in it stay.
        num_points: Points of a pipeline, the classes in equal parts.
        num_inference_steps: Steps of the scheduler; each pipeline's own number if left out.
        seed: Of the samples.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
    """
    names = _row_names(model)
    check_writable(output.parent)
    for path in model:
        check_model(path)
        if not (Path(path) / "steps").is_dir():
            raise ValueError(
                f"--model {path!r} has no steps/: study points takes folders that train_pipeline.py wrote."
            )

    import time

    from ..evaluation.records import fingerprint, make_record, pipeline_fingerprint, read_runs, write_run
    from ..evaluation.tables import render_view
    from ..training.history import training_seconds

    read_runs(output)  # a file that cannot be added to is found before the work
    loaded = {
        name: load_points_pipeline(path, None, num_points, device) for name, path in zip(names, model, strict=True)
    }
    rows: dict[str, dict[str, Any]] = {}
    for (name, (pipe, data)), path in zip(loaded.items(), model, strict=True):
        draw_points(pipe, data, len(data.class_names), num_inference_steps, seed, None)  # to warm up
        started = time.perf_counter()
        labels, trajectory = draw_points(pipe, data, num_points, num_inference_steps, seed, None)
        seconds = time.perf_counter() - started
        floor = agreement(data, real_points(data, labels, seed=1), labels)
        trained = training_seconds(path)
        rows[name] = {"points": len(labels), "steps": len(trajectory) - 1}
        for value, of_samples in agreement(data, trajectory[-1], labels).items():
            rows[name] |= {value: of_samples, f"{value}, real points": floor[value]}
        rows[name] |= {"seconds": seconds} | ({} if trained is None else {"training_minutes": trained / 60.0})
    networks = fingerprint(*(pipeline_fingerprint(pipe) for pipe, _ in loaded.values()))
    settings = {"num_points": num_points, "num_inference_steps": num_inference_steps, "seed": seed}
    identities = {"model": {"name": "study-points", "fingerprint": networks}}
    record = make_record(identities, settings, {"rows": rows}, pipe.device)
    write_run(output, "study-points", record)
    print(render_view({"study-points": record}, "study-points", "rows"))


def guide(
    model: str | None = None,
    name: str = "guide-report",
    num_test_images: int = 2_000,
    guidance_scale: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
    cfg_scale: float = 1.0,
    num_updates: int = 1_000,
    figure: Path | None = None,
    options: _Options = MeasuringOptions(),  # noqa: B008
) -> None:
    """Measure the guide of a pipeline.

    Accuracy, calibration and gradient over the noise; its own accuracy on guided images beside the judge's, over the
    guidance scale; and how a trained gradient differs from the exact one where that is known.

    Example: mnist-guided study guide --figure guide.png --output metrics.json

    Args:
        model: Folder or Hub id of a pipeline with a classifier; the one shipped with the package if left out.
        name: Name of the record in the output.
        num_test_images: Test images read at each noise level.
        guidance_scale: Scales to draw at.
        cfg_scale: Classifier-free weight of the drawn images; 0 leaves the label to the guide alone.
        num_updates: Of the two small classifiers that are trained where the exact gradient is known.
        figure: Picture to write.
        options: Shared by the commands that measure images.
    """
    options.check(model, figure)

    from ..evaluation.guide import guide_by_noise, guide_hacking, learned_scores
    from ..evaluation.records import check_name, identity_of_pipeline, make_record, write_run
    from ..evaluation.tables import render_view
    from ..sampling.arguments import check_count, parse_scales

    check_name(name)
    check_count("num_test_images", num_test_images)
    check_count("num_updates", num_updates)
    parse_scales("guidance_scale", guidance_scale, len(guidance_scale))
    reference, pipe = options.reference(), load_pipeline(model, options.device)
    count, seed = options.num_images, options.seed
    read = {name: getattr(reference.test, name)[:num_test_images] for name in ("images", "labels")}
    test = replace(reference.test, **read)
    figures: dict[str, Any] = {
        "by_noise": guide_by_noise(pipe, test, seed=seed),
        "hacking": guide_hacking(pipe, reference.judge, count, guidance_scale, cfg_scale, seed),
        "learned_scores": learned_scores(num_updates=num_updates, seed=seed),
    }
    settings = {"num_test_images": num_test_images, "num_images": count, "cfg_scale": cfg_scale}
    settings |= {"num_updates": num_updates, "seed": seed}
    identities = {"model": identity_of_pipeline(pipe), **reference.identities}
    record = make_record(identities, settings, figures, pipe.device)
    write_run(options.output, name, record)
    for part in figures:
        print(render_view({name: record}, name, part))
    if figure is not None:
        from ..figures.curves import guide_report_figure

        save_figure(guide_report_figure(**figures), figure)


def schedulers(
    model: str | None = None,
    options: _Options = MeasuringOptions(),  # noqa: B008
) -> None:
    """Measure every supported scheduler.

    Its error with exact networks at 10, 25 and 50 steps, and what it makes of a trained pipeline at 10 and 25 steps.

    Example: mnist-guided study schedulers --output metrics.json

    Args:
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        options: Shared by the commands that measure images.
    """
    options.check(model)
    check_packages(("scipy", "torchsde"), "schedulers")

    from ..evaluation.oracle import measure_schedulers
    from ..evaluation.records import identity_of_pipeline, make_record, write_run
    from ..evaluation.tables import render_view

    reference, pipe = options.reference(), load_pipeline(model, options.device)
    table = measure_schedulers(pipe, reference, options.num_images, options.seed)
    settings = {"num_images": options.num_images, "seed": options.seed}
    identities = {"model": identity_of_pipeline(pipe), **reference.identities}
    record = make_record(identities, settings, {"rows": table}, pipe.device)
    write_run(options.output, "scheduler-table", record)
    print(render_view({"scheduler-table": record}, "scheduler-table", "rows"))


def likelihood(
    model: str,
    binarisation: Literal["grey", "threshold", "stochastic"] = "grey",
    num_importance_samples: int = 200,
    num_images: int | None = None,
    output: Path = Path("metrics.json"),
    name: str | None = None,
    dataset_name: str = "ylecun/mnist",
    seed: int = 0,
    device: str | None = None,
) -> None:
    """Measure a VAE's evidence lower bound and importance-weighted likelihood of the test set.

    Only for variational autoencoders that were trained with --reconstruction bce: others define no likelihood of
    Bernoulli pixels. Values of different binarisations do not compare.

    Example: mnist-guided study likelihood --model runs/vae --binarisation threshold --num_importance_samples 200

    Args:
        model: Folder or Hub id of a VAE, or of a pipeline that has one.
        binarisation: What counts as an image: the grey values read as probabilities, pixels above one half, or one
            draw of each pixel.
        num_importance_samples: Draws per image; the bound rises with them towards the likelihood.
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
    network = load_autoencoder(model, device)

    from ..data.images import load_images
    from ..evaluation.autoencoders import binarise, check_has_likelihood, image_likelihood, mean_value
    from ..evaluation.records import check_name, identity, make_record, read_runs, write_run
    from ..evaluation.tables import render_view

    check_has_likelihood(network, training_settings(model).get("reconstruction"))
    name = name or f"likelihood/{public_name(model)}-{binarisation}"
    check_name(name)
    read_runs(output)
    images = load_images(dataset_name, "test", max_samples=num_images).images
    found = image_likelihood(network, binarise(images, binarisation, seed), num_importance_samples, seed, progress=True)
    rows = {
        "reconstruction": mean_value(found.reconstruction),
        "kl": mean_value(found.kl),
        "negative_elbo": mean_value(-found.elbo),
        "negative_log_likelihood": mean_value(-found.importance_weighted),
    }
    settings = {"binarisation": binarisation, "num_importance_samples": num_importance_samples}
    settings |= {"num_images": len(images), "seed": seed}
    identities = {"model": identity(model, network), "dataset": identity(dataset_name, images)}
    record = make_record(identities, settings, {"rows": rows}, network.device)
    write_run(output, name, record)
    print(render_view({name: record}, name, "rows"))


def benchmark_sampling(
    model: str | None = None,
    output: Path = Path("metrics.json"),
    num_images: int = 10_000,
    rounds: int = 5,
    device: str | None = None,
) -> None:
    """Time sampling beside a hand-written loop, diffusers' pixel-space pipeline and a matrix product.

    All are timed in turn, round after round, after a warm-up. Run it while nothing else does.

    Example: mnist-guided benchmark sampling --output metrics.json

    Args:
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        output: File of measurements to add it to; all other runs in it stay.
        num_images: Images of a round.
        rounds: Timed rounds.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
    """
    _check_benchmark(output, rounds)
    if model is not None:
        check_model(model)
    if num_images < 1:
        raise ValueError(f"--num_images must be at least 1, got {num_images}.")

    from ..benchmarks.sampling import benchmark_sampling as measure
    from ..evaluation.records import identity_of_pipeline

    pipe = load_pipeline(model, device)
    figures = measure(pipe, num_images, rounds)
    identities = {"model": identity_of_pipeline(pipe)}
    settings = {"num_images": num_images, "rounds": rounds}
    _file("benchmark-sampling", identities, settings, figures, output, pipe.device)


def benchmark_training(
    scripts: Path = Path("training"),
    output: Path = Path("metrics.json"),
    dataset_name: str = "ylecun/mnist",
    num_train_epochs: int | None = None,
    rounds: int = 3,
) -> None:
    """Time the training scripts beside a notebook's loops with the same networks and optimizer.

    Both ways are timed in turn, round after round. Run it while nothing else does.

    Example: mnist-guided benchmark training --output metrics.json

    Args:
        scripts: Folder of the training scripts, in a checkout of the repository.
        output: File of measurements to add it to; all other runs in it stay.
        dataset_name: Hub id or folder of the data set.
        num_train_epochs: Passes over the training set, for each network and way; the preset's own if left out.
        rounds: Trainings of each network and way.
    """
    if not (scripts / "train_vae.py").is_file():
        raise FileNotFoundError(
            f"--scripts {str(scripts)!r} has no train_vae.py; give the training folder of a checkout."
        )
    if num_train_epochs is not None and num_train_epochs < 1:
        raise ValueError(f"--num_train_epochs must be at least 1, got {num_train_epochs}.")
    _check_benchmark(output, rounds)

    from ..benchmarks.training import benchmark_training as measure

    with tempfile.TemporaryDirectory() as folder:
        figures = measure(scripts, dataset_name, num_train_epochs, rounds, Path(folder))
    settings = {"num_train_epochs": num_train_epochs, "rounds": rounds}
    _file("benchmark-training", {}, settings, figures, output, "cpu")


def _row_names(model: tuple[str, ...]) -> list[str]:
    """The names of the models' folders, which name the rows of a table."""
    names = [Path(path).name for path in model]
    if not names or len(set(names)) < len(names):
        raise ValueError(
            f"--model must name one model or several of different names, got {', '.join(names) or 'none'}."
        )
    return names


def _check_model(path: str) -> None:
    """A folder must hold a network or a pipeline; anything else is left to the Hub."""
    if os.path.isdir(path) and (Path(path) / "config.json").is_file():
        return
    check_model(path)


def _check_benchmark(output: Path, rounds: int) -> None:
    if rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {rounds}.")
    check_writable(output.parent)

    from ..evaluation.records import read_runs

    read_runs(output)  # a file that cannot be added to is found before the work


def _file(
    name: str,
    identities: dict[str, dict[str, str]],
    settings: dict[str, Any],
    figures: dict[str, Any],
    output: Path,
    device: Any,
) -> None:
    """File the record of a benchmark, and print its rows and its single values."""
    from ..evaluation.records import make_record, write_run
    from ..evaluation.tables import render_view

    record = make_record(identities, settings, figures, device)
    write_run(output, name, record)
    print(render_view({name: record}, name, "rows"))
    for value, number in figures.items():
        if isinstance(number, (int, float)):
            print(f"{value}: {number:.4g}")
