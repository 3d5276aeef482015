"""Put the known faults of teaching texts into a right system, one at a time, and measure what each does.

    python training/run_faults.py --dataset_name ylecun/mnist --output_dir runs/studies/faults

The right system has the networks of the preset ``notebook``: a small VAE, and an unconditional denoiser guided by a
classifier, on T = 1000 linear betas from 1e-4 to 0.02. A fault changes one thing and nothing else: data, seeds, updates
and the noise of the images are the same. Faults 4 and 5 are of the denoiser alone, and stand beside denoisers that are
told the label. What has finished is kept, so the same command continues an interrupted run.
"""

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro

import train_classifier
import train_denoiser
import train_vae
from fault_hooks import clamped, draw, images_in_unit_range, scaled
from mnist_guided_pipeline.cli.figures import check_figure, save_figure
from mnist_guided_pipeline.data.images import load_images
from mnist_guided_pipeline.evaluation.fingerprints import fingerprint
from mnist_guided_pipeline.evaluation.guide import guide_hacking
from mnist_guided_pipeline.evaluation.judge import Judge, load_judge
from mnist_guided_pipeline.evaluation.records import public_name, read_runs
from mnist_guided_pipeline.evaluation.scheduler_table import oracle_error
from mnist_guided_pipeline.evaluation.scores import Reference, check_enough, score_images
from mnist_guided_pipeline.evaluation.studies import check_judge, file_table
from mnist_guided_pipeline.evaluation.tables import render_view
from mnist_guided_pipeline.figures.images import image_rows
from mnist_guided_pipeline.storage.atomic import write_manifest
from mnist_guided_pipeline.storage.loading import load_network
from mnist_guided_pipeline.training.config import ClassifierConfig, DenoiserConfig
from mnist_guided_pipeline.training.launch import plain_errors
from mnist_guided_pipeline.training.presets import AUTOENCODER_PRESETS, PRESETS
from run_study import make_pipeline, train_once

_COLUMNS = {
    "accuracy": "accuracy",
    "judge_fid": "judge-FID",
    "judge_precision": "precision",
    "judge_recall": "recall",
    "judge_coverage": "coverage",
}


@dataclass
class FaultsConfig:
    """Settings of ``run_faults.py``."""

    output_dir: str
    """Folder of the trained networks."""
    output: str = "metrics.json"
    """File of measurements to add the table to; all other runs in it stay."""
    figure: str | None = None
    """Picture to write; study-faults.png in output_dir if left out."""
    dataset_name: str = "ylecun/mnist"
    """Hub id, or a folder with the same parquet files."""
    judge: str | None = None
    """Folder of a judge of these classes, from train_judge.py; the one shipped with the package if left out."""
    max_train_steps: int = 4_000
    """Updates of every training."""
    max_train_samples: int | None = None
    """Train on the first this many images."""
    num_images: int = 1_000
    """Images drawn of every system."""
    num_inference_steps: int = 100
    """Steps of DDPM; the law of T = 20 timesteps has 20."""
    guidance_scale: float = 2.0
    """Of the right system."""
    high_scale: float = 8.0
    """At which guide and judge are compared."""
    seed: int = 0
    """Seed of every training and of the images."""


def main(config: FaultsConfig) -> None:
    """Train what is not trained yet, then draw and measure every system, file the table and draw the picture."""
    figure = Path(config.figure or Path(config.output_dir) / "study-faults.png")
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    check_figure(figure, force=True)
    read_runs(config.output)
    train, test = load_images(config.dataset_name, "train"), load_images(config.dataset_name, "test")
    judge = load_judge() if config.judge is None else Judge.from_pretrained(config.judge)
    check_judge(judge, test.class_names)
    check_enough(config.num_images, len(test.class_names))
    pipes, latent_std = trained(config, test)
    reference, systems, shown = Reference.of(train, test, judge), {}, {}

    def measure(name: str, pipe: Any, scale: float = config.guidance_scale, **options: Any) -> None:
        steps = options.pop("steps", config.num_inference_steps)
        images, labels = draw(pipe, config.num_images, config.seed, scale, steps, **options)
        shown[name] = images[:20].numpy()
        figures = score_images(images.split(500), labels, judge, reference, check_memorisation=False)
        systems[name] = {column: figures[column] for column in _COLUMNS}

    right, s = pipes["right"], config.guidance_scale
    measure("right", right)
    measure("without sqrt(1 - abar)", right, 0.0, callback=scaled(lambda sigma: s / sigma))
    measure("gradient subtracted", right, 0.0, callback=scaled(lambda sigma: -s))
    measure("classifier without noise", pipes["clean classifier"])
    measure("clamped at every step", right, callback=clamped)
    measure("T = 1000, 20 steps", right, steps=20)
    measure("T = 20", pipes["T=20"], steps=20)
    measure("pixels in [-1, 1]", pipes["pixels"], 0.0)
    measure("pixels in [0, 1]", pipes["unit"], 0.0, unit_range=True)
    measure("normalised latents", pipes["normalised"], 0.0)
    measure("latents as they are", pipes["unnormalised"], 0.0)
    rows = {
        fault: {
            "shows in": _COLUMNS[column],
            "right": shown_as(column, systems[good][column]),
            "with the fault": shown_as(column, systems[bad][column]),
        }
        for fault, column, good, bad in (
            ("T = 20 with betas up to 0.02", "judge_fid", "T = 1000, 20 steps", "T = 20"),
            ("gradient subtracted", "accuracy", "right", "gradient subtracted"),
            ("images in [0, 1]", "judge_recall", "pixels in [-1, 1]", "pixels in [0, 1]"),
            (f"latents of deviation {latent_std:.1f}", "judge_fid", "normalised latents", "latents as they are"),
            ("classifier trained without noise", "accuracy", "right", "classifier without noise"),
            ("clamping at every step", "judge_coverage", "right", "clamped at every step"),
        )
    }
    exact = [oracle_error("DDIMScheduler", 50, callback=hook) for hook in (None, scaled(lambda sigma: 1 / sigma))]
    rows["guidance without sqrt(1 - abar)"] = {
        "shows in": "error with exact networks",
        **dict(zip(("right", "with the fault"), (f"{error:.3f}" for error in exact), strict=True)),
    }
    right.register_to_config(sampling_defaults={"num_inference_steps": config.num_inference_steps})
    by_scale = guide_hacking(right, judge, config.num_images, (config.high_scale,), seed=config.seed)[0]
    rows["judging with the guide"] = {
        "shows in": f"accuracy at scale {config.high_scale:g}",
        "right": shown_as("accuracy", by_scale["judge_accuracy"]),
        "with the fault": shown_as("accuracy", by_scale["guide_accuracy"]),
    }
    words = ["python", "training/run_faults.py", "--num_images", str(config.num_images), "--seed", str(config.seed)]
    words += ["--judge", public_name(config.judge)] if config.judge else []
    words += ["--dataset_name", public_name(config.dataset_name), "--output_dir", public_name(config.output_dir)]
    words += ["--max_train_steps", str(config.max_train_steps)]
    networks = fingerprint(*(network for pipe in pipes.values() for network in (pipe.denoiser, pipe.classifier)))
    settings = {"num_images": config.num_images, "seed": config.seed, "guidance_scale": s}
    measured = (judge, (train, test), config.dataset_name, networks, settings)
    for name, table in (("faults", rows), ("faults-figures", systems)):
        record = file_table(config.output, name, shlex.join(words), table, *measured)
        print(render_view({name: record}, name, "rows"))
    save_figure(image_rows(list(shown.values()), list(shown)), figure)
    print(f"{figure}: a row of samples of each, of the same noise.")


def shown_as(column: str, figure: dict[str, Any]) -> str:
    """A figure in a cell of the short table."""
    return f"{100 * figure['value']:.1f} %" if column == "accuracy" else f"{figure['value']:.3g}"


def trained(config: FaultsConfig, test: Any) -> tuple[dict[str, Any], float]:
    """All pipelines by name, trained now or before; and the latents' deviation in the plain autoencoder."""
    folder, preset = Path(config.output_dir), PRESETS["notebook"]
    assert preset.vae and preset.classifier  # for type checkers: this preset has them
    common = {name: getattr(config, name) for name in ("dataset_name", "seed", "max_train_steps", "max_train_samples")}
    denoiser = replace(preset.denoiser, beta_schedule="linear", learning_rate=1e-3)
    classifier = replace(preset.classifier, beta_schedule="linear")
    conditional = replace(denoiser, network_config='{"hidden_size": 256, "num_classes": 10}')
    of_pixels = replace(conditional, network_config='{"hidden_size": 512, "num_classes": 10}', prediction_type="sample")

    def fit(name: str, settings: DenoiserConfig | ClassifierConfig, vae_path: str | None) -> str:
        module = train_denoiser if isinstance(settings, DenoiserConfig) else train_classifier
        return train_once(module, settings, folder / name, vae_path=vae_path, **common)

    vae = train_once(train_vae, preset.vae, folder / "vae", **common)
    plain = train_once(train_vae, AUTOENCODER_PRESETS["mlp-plain"], folder / "plain", **common)
    raw = folder / "plain-unnormalised"
    network = load_network(plain)
    latent_std = sum(network.config.latents_std) / len(network.config.latents_std)
    network.register_to_config(latents_mean=None, latents_std=None)
    network.save_pretrained(raw)
    write_manifest(raw)
    right = fit("denoiser", denoiser, vae), fit("classifier", classifier, vae)
    short: dict[str, Any] = {"num_train_timesteps": 20}
    at_20 = fit("denoiser-20", replace(denoiser, **short), vae), fit("classifier-20", replace(classifier, **short), vae)
    no_noise = replace(classifier, beta_start=1e-9, beta_end=2e-9)  # abar stays above 0.99999
    clean = fit("classifier-clean", no_noise, vae)
    with images_in_unit_range():
        unit = fit("denoiser-unit", of_pixels, None)
    pipes = {
        "right": make_pipeline(vae, *right, test),
        "T=20": make_pipeline(vae, *at_20, test),
        "clean classifier": make_pipeline(vae, right[0], clean, test),
        "pixels": make_pipeline(None, fit("denoiser-pixels", of_pixels, None), None, test),
        "unit": make_pipeline(None, unit, None, test),
        "normalised": make_pipeline(plain, fit("denoiser-plain", conditional, plain), None, test),
        "unnormalised": make_pipeline(str(raw), fit("denoiser-raw", conditional, str(raw)), None, test),
    }
    return pipes, latent_std


if __name__ == "__main__":
    with plain_errors():
        main(tyro.cli(FaultsConfig, description=None))
