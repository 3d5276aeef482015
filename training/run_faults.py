"""Put the known faults of teaching texts into a right system, one at a time, and measure what each does.

    python training/run_faults.py --dataset_name ylecun/mnist --output_dir runs/studies/faults

The right system has the networks of the preset ``notebook``: a small VAE, and an unconditional denoiser guided by a
classifier, on T = 1000 linear betas from 1e-4 to 0.02. A fault changes one thing and nothing else: data, seeds, updates
and the noise of the images are the same. Faults 4 and 5 are of the denoiser alone, and stand beside denoisers that are
class-conditional. What has finished is kept, so the same command continues an interrupted run.

The pipeline has no switch for any fault: they are put in from outside, by a callback after each step (:func:`scaled`,
:func:`clamped`), by a scheduler (:func:`mean_only_scheduler`), or around the function that brings images into model
range (:func:`images_in_unit_range`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from diffusers import DDPMScheduler
from torch import Tensor

import mnist_guided_pipeline.data.posteriors as posteriors
import train_classifier
import train_denoiser
import train_vae
from mnist_guided_pipeline.cli.options import MeasuringOptions
from mnist_guided_pipeline.data.images import to_uint8, to_unit_range
from mnist_guided_pipeline.evaluation.guide import guide_hacking
from mnist_guided_pipeline.evaluation.oracle import oracle_error
from mnist_guided_pipeline.evaluation.samples import draw_samples
from mnist_guided_pipeline.evaluation.scores import score_images
from mnist_guided_pipeline.evaluation.studies import file_tables
from mnist_guided_pipeline.evaluation.tables import column_title
from mnist_guided_pipeline.figures.images import image_rows, save_figure
from mnist_guided_pipeline.sampling.noise import noise_level
from mnist_guided_pipeline.storage.atomic import write_manifest
from mnist_guided_pipeline.storage.pipelines import load_network
from mnist_guided_pipeline.training.config import ClassifierConfig, DenoiserConfig
from mnist_guided_pipeline.training.launch import plain_errors
from mnist_guided_pipeline.training.presets import AUTOENCODER_PRESETS, PRESETS
from run_study import make_pipeline, train_once

Callback = Callable[[Any, int, Tensor, dict[str, Tensor]], dict[str, Tensor]]

_PRESET = "notebook"
_SCALE = 2.0  # of the right system
_HIGH_SCALE = 8.0  # at which guide and judge are compared
_COLUMNS = ("accuracy", "judge_fid", "judge_precision", "judge_recall", "judge_coverage")


@dataclass
class FaultsConfig:
    """Settings of ``run_faults.py``; the seed is that of every training and of the images."""

    output_dir: str
    """Folder of the trained networks, and of the figure study-faults.png."""
    max_train_steps: int = 4_000
    """Updates of every training."""
    max_train_samples: int | None = None
    """Train on the first this many images."""
    num_inference_steps: int = 100
    """Steps of DDPM; the schedule of T = 20 timesteps has 20."""
    measuring: Annotated[MeasuringOptions, tyro.conf.arg(name="")] = MeasuringOptions(force=True)  # noqa: RUF009


def mean_only_scheduler(pipe: Any) -> DDPMScheduler:
    """DDPM without the noise of its steps, each of which then goes to the mean of a distribution instead of into it.

    Ho et al. 2020, https://arxiv.org/abs/2006.11239, equation 7, without ``sigma_t eps``: variance is lost at each
    step and never put back. It is no deterministic sampler; that is DDIM with eta 0, whose step keeps the variance by
    another coefficient of the predicted noise (Song et al. 2021, https://arxiv.org/abs/2010.02502, equation 12).
    """
    scheduler = pipe.make_scheduler(DDPMScheduler)
    scheduler._get_variance = lambda t, predicted_variance=None, variance_type=None: torch.zeros(())
    return scheduler


@contextmanager
def images_in_unit_range() -> Iterator[None]:
    """Inside, a denoiser of pixels is trained on images in [0, 1]."""
    own, posteriors.to_model_range = posteriors.to_model_range, to_unit_range
    try:
        yield
    finally:
        posteriors.to_model_range = own


def scaled(scale_at: Callable[[float], float]) -> Callback:
    """A guidance scale of each step, from the sigma of its noise; the first step, in pure noise, is not guided."""

    def set_scale(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if step + 1 < pipe.num_timesteps:
            sigma = noise_level(pipe.scheduler, step + 1, pipe.scheduler.timesteps[step + 1]).sigma
            pipe._guidance_scale = torch.tensor(scale_at(sigma))
        return {}

    return set_scale


def clamped(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Latents cut to [-1, 1] after every step, as if they were images."""
    return {"latents": tensors["latents"].clamp(-1.0, 1.0)}


def main(config: FaultsConfig) -> None:
    """Train what is not trained yet, then draw and measure every system, file the table and draw the figure."""
    options, s = config.measuring, _SCALE
    figure = Path(config.output_dir) / "study-faults.png"
    Path(config.output_dir).mkdir(parents=True, exist_ok=True)
    options.check(figure=figure)
    reference = options.reference()
    pipes, latent_std = trained(config, reference.test.id2label)
    systems: dict[str, dict[str, Any]] = {}
    shown = {}

    def measure(
        name: str, pipe: Any, scale: float = s, callback: Callback | None = None, steps: int | None = None
    ) -> None:
        in_unit_range = pipe is pipes["unit"]
        call = {
            "guidance_scale": scale,
            "num_inference_steps": steps or config.num_inference_steps,
            "callback_on_step_end": callback,
            "output_type": "latent" if in_unit_range else "pt",
        }
        pipe.set_progress_bar_config(disable=True)
        parts = list(draw_samples(pipe, options.num_images, options.seed, call, reference.class_weights))
        unit = torch.cat([samples for samples, _ in parts]).reshape(-1, 1, 28, 28).clamp(0.0, 1.0)
        images, labels = to_uint8(unit * 2.0 - 1.0), torch.cat([labels for _, labels in parts])
        shown[name] = images[:20].numpy()
        figures = score_images(images, labels, reference, check_memorisation=False)
        systems[name] = {column: figures[column] for column in _COLUMNS}

    right = pipes["right"]
    measure("right", right)
    measure("without sqrt(1 - abar)", right, 0.0, callback=scaled(lambda sigma: s / sigma))
    measure("gradient subtracted", right, 0.0, callback=scaled(lambda sigma: -s))
    measure("classifier without noise", pipes["clean classifier"])
    measure("clamped at every step", right, callback=clamped)
    own, right.scheduler = right.scheduler, mean_only_scheduler(right)
    measure("DDPM without its noise", right)
    right.scheduler = own
    measure("T = 1000, 20 steps", right, steps=20)
    measure("T = 20", pipes["T=20"], steps=20)
    measure("pixels in [-1, 1]", pipes["pixels"], 0.0)
    measure("pixels in [0, 1]", pipes["unit"], 0.0)
    measure("normalised latents", pipes["normalised"], 0.0)
    measure("latents as they are", pipes["unnormalised"], 0.0)
    rows = {
        fault: {
            "shows in": column_title(column),
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
            ("DDPM without its noise", "judge_coverage", "right", "DDPM without its noise"),
        )
    }
    exact = [oracle_error("DDIMScheduler", 50, callback=hook) for hook in (None, scaled(lambda sigma: 1 / sigma))]
    rows["guidance without sqrt(1 - abar)"] = {
        "shows in": "error with exact networks",
        **dict(zip(("right", "with the fault"), (f"{error:.3f}" for error in exact), strict=True)),
    }
    right.register_to_config(sampling_defaults={"num_inference_steps": config.num_inference_steps})
    by_scale = guide_hacking(right, reference.judge, options.num_images, (_HIGH_SCALE,), seed=options.seed)[0]
    rows["judging with the guide"] = {
        "shows in": f"accuracy at scale {_HIGH_SCALE:g}",
        "right": shown_as("accuracy", by_scale["judge_accuracy"]),
        "with the fault": shown_as("accuracy", by_scale["guide_accuracy"]),
    }
    settings = {"num_images": options.num_images, "seed": options.seed, "guidance_scale": s}
    for name, table in (("faults", rows), ("faults-figures", systems)):
        file_tables(options.output, name, {"rows": table}, settings, [*pipes.values()], reference, right.device)
    save_figure(image_rows(list(shown.values()), list(shown)), figure)
    print(f"{figure}: a row of samples of each, of the same noise.")


def shown_as(column: str, value: dict[str, Any]) -> str:
    """A value in a cell of the short table."""
    return f"{100 * value['value']:.1f} %" if column == "accuracy" else f"{value['value']:.3g}"


def trained(config: FaultsConfig, id2label: dict[int, str]) -> tuple[dict[str, Any], float]:
    """All pipelines by name, trained now or before; and the latents' deviation in the plain autoencoder."""
    folder, preset = Path(config.output_dir), PRESETS[_PRESET]
    if preset.vae is None or preset.classifier is None:
        raise ValueError(f"preset {_PRESET!r} must have a VAE and a classifier.")
    common: dict[str, Any] = {name: getattr(config, name) for name in ("max_train_steps", "max_train_samples")}
    common |= {name: getattr(config.measuring, name) for name in ("dataset_name", "seed")}
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
        "right": make_pipeline(vae, *right, id2label),
        "T=20": make_pipeline(vae, *at_20, id2label),
        "clean classifier": make_pipeline(vae, right[0], clean, id2label),
        "pixels": make_pipeline(None, fit("denoiser-pixels", of_pixels, None), None, id2label),
        "unit": make_pipeline(None, unit, None, id2label),
        "normalised": make_pipeline(plain, fit("denoiser-plain", conditional, plain), None, id2label),
        "unnormalised": make_pipeline(str(raw), fit("denoiser-raw", conditional, str(raw)), None, id2label),
    }
    return pipes, latent_std


if __name__ == "__main__":
    with plain_errors():
        main(tyro.cli(FaultsConfig, description=None))
