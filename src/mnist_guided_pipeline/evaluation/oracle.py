"""A guided problem with a known answer: Gaussian mixtures, their exact networks, and the exact p(x | y).

With guidance scale 1 the pipeline must reproduce :meth:`Mixture.draw` and :meth:`Mixture.moments` under every
scheduler, up to the size of its steps. ``tests/test_oracle.py`` proves it; try an idea on it in three lines::

    pipe = exact_pipeline(PLANE, "DDIMScheduler", "v_prediction")
    samples = pipe([1], 4096, guidance_scale=1.0, num_inference_steps=100, output_type="latent").images
    moment_errors(samples.numpy(), *PLANE.moments(1))

:func:`measure_schedulers` does it with every supported scheduler, and says beside it what each makes of a trained
pipeline. :func:`measure_scales` does it for other scales than 1, where the truth is a sum over a grid of the plane.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import diffusers
import numpy as np
import torch
from torch.quasirandom import SobolEngine
from tqdm.auto import tqdm

from ..models.mixture import MixtureClassifier, MixtureDenoiser
from ..sampling.schedulers import SUPPORTED
from ..storage.pipelines import ClassifierGuidedLatentPipeline
from .metrics import judge_fid
from .samples import SamplingSettings, draw_images, wanted_classes
from .scores import Reference

LINEAR = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
COSINE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture of dimension ``dim``, two components in each of two classes; ``seed`` makes them."""

    dim: int
    seed: int

    @cached_property
    def parameters(self) -> dict[str, Any]:
        """Arguments of ``MixtureDenoiser`` and ``MixtureClassifier``; about unit variance in every direction."""
        rng = np.random.default_rng(self.seed)
        means = rng.normal(size=(4, self.dim))
        factors = rng.normal(size=(4, self.dim, self.dim)) / np.sqrt(self.dim)
        covariances = 0.1 * factors @ factors.transpose(0, 2, 1) + 0.02 * np.eye(self.dim)
        return {
            "weights": [0.3, 0.2, 0.3, 0.2],
            "means": means.tolist(),
            "covariances": covariances.tolist(),
            "classes": [0, 0, 1, 1],
        }

    def _of_class(self, label: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        chosen = [k for k, c in enumerate(self.parameters["classes"]) if label is None or c == label]
        weights = np.array(self.parameters["weights"])[chosen]
        means, covariances = np.array(self.parameters["means"]), np.array(self.parameters["covariances"])
        return weights / weights.sum(), means[chosen], covariances[chosen]

    def moments(self, label: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Exact mean and covariance of p(x | label), or of p(x)."""
        weights, means, covariances = self._of_class(label)
        mean = weights @ means
        spread = means - mean
        return mean, np.einsum("k,kij->ij", weights, covariances + spread[:, :, None] * spread[:, None, :])

    def draw(self, label: int | None, count: int, seed: int) -> np.ndarray:
        """Exact samples of p(x | label), or of p(x)."""
        rng = np.random.default_rng(seed)
        weights, means, covariances = self._of_class(label)
        component = rng.choice(len(weights), size=count, p=weights)
        factors = np.linalg.cholesky(covariances)
        return means[component] + np.einsum("nij,nj->ni", factors[component], rng.normal(size=(count, self.dim)))


PLANE, HIGHER = Mixture(2, 0), Mixture(16, 1)

_ORACLE_STEPS, _PIPELINE_STEPS = (10, 25, 50), (10, 25)
_ORACLE_SAMPLES = 4096

# where a default would stop before the data are reached, or allow few steps only
_SETTINGS: dict[str, dict[str, Any]] = {
    "LCMScheduler": {"original_inference_steps": 200},
    "TCDScheduler": {"original_inference_steps": 200},
    "CosineDPMSolverMultistepScheduler": {"sigma_min": 0.002, "sigma_max": 80.0},
}


def make_scheduler(name: str, prediction_type: str, schedule: dict[str, Any], **options: Any) -> Any:
    """A diffusers scheduler with every setting explicit, built without this package."""
    scheduler_class = getattr(diffusers, name)
    accepted = inspect.signature(scheduler_class.__init__).parameters
    explicit = {"clip_sample": False, "timestep_spacing": "trailing", "snr_shift_scale": 1.0}
    settings = {**schedule, "prediction_type": prediction_type, **explicit, **options}
    return scheduler_class(**{key: value for key, value in settings.items() if key in accepted})


def exact_pipeline(
    mixture: Mixture, name: str, prediction_type: str, conditional: bool = False, **options: Any
) -> ClassifierGuidedLatentPipeline:
    """The exact networks of a mixture under a scheduler, in float64."""
    schedule = COSINE if name == "UnCLIPScheduler" else LINEAR
    scheduler = make_scheduler(name, prediction_type, schedule, **{**_SETTINGS.get(name, {}), **options})
    law = "flow" if options.get("use_flow_sigmas") else SUPPORTED[name].schedule
    noise: dict[str, Any] = {"law": law, "schedule": schedule}
    if law in ("edm", "arctan"):
        noise["sigma_data"] = scheduler.config.sigma_data
    num_classes = 2 if conditional else None
    denoiser = MixtureDenoiser(**mixture.parameters, **noise, prediction_type=prediction_type, num_classes=num_classes)
    classifier = MixtureClassifier(**mixture.parameters, **noise)
    pipe = ClassifierGuidedLatentPipeline(None, denoiser.double(), classifier.double(), scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def even_noise(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    """Standard Gaussian noise from a scrambled Sobol sequence: its moments are far closer than those of a draw."""
    uniform = SobolEngine(dim, scramble=True, seed=seed).draw(count).double().clamp(1e-6, 1 - 1e-6)
    return torch.erfinv(2 * uniform - 1) * 2**0.5


def moment_errors(samples: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> tuple[float, float]:
    """Largest error of the mean in standard deviations, and error of the covariance relative to its norm."""
    mean_error = np.abs(samples.mean(axis=0) - mean) / np.sqrt(np.diag(covariance))
    covariance_error = np.linalg.norm(np.cov(samples.T) - covariance) / np.linalg.norm(covariance)
    return float(mean_error.max()), float(covariance_error)


def oracle_error(name: str, steps: int, seed: int = 0, callback: Callable[..., Any] | None = None) -> float:
    """Error of guided sampling with exact networks: the larger of :func:`moment_errors`, of a mixture in the plane.

    The scheduler is run with the first prediction type of its row, at scale 1. ``callback`` is the pipeline's
    ``callback_on_step_end``, to see what a change of the rule does.
    """
    pipe = exact_pipeline(PLANE, name, SUPPORTED[name].prediction_types[0])
    samples = pipe(
        [1],
        _ORACLE_SAMPLES,
        guidance_scale=1.0,
        num_inference_steps=steps,
        latents=even_noise(_ORACLE_SAMPLES, PLANE.dim, seed),
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        callback_on_step_end=callback,
    ).images
    return max(moment_errors(samples.numpy(), *PLANE.moments(1)))


def tilted_density(scale: float, label: int, told: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """``p(x) p(label | x)^scale`` of ``PLANE`` on a grid, or ``p(x | label) p(label | x)^scale`` where ``told``.

    Returns:
        Points (N, 2), and their weights (N,), which sum to 1.
    """
    axis = np.linspace(-6.0, 6.0, 401)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    logs = []
    for value in (0, 1):
        weights, means, covariances = PLANE._of_class(value)
        prior = np.array(PLANE.parameters["weights"])[np.array(PLANE.parameters["classes"]) == value].sum()
        away = points[:, None] - means
        squares = np.einsum("nki,kij,nkj->nk", away, np.linalg.inv(covariances), away)
        densities = np.log(prior * weights) - 0.5 * (squares + np.log(np.linalg.det(covariances)))
        logs.append(np.logaddexp.reduce(densities, axis=1))
    every = np.logaddexp(*logs)
    tilted = (logs[label] if told else every) + scale * (logs[label] - every)
    weights = np.exp(tilted - tilted.max())
    return points, weights / weights.sum()


def draw_tilted(scale: float, label: int, count: int, seed: int) -> np.ndarray:
    """Samples (count, 2) of :func:`tilted_density`, spread over the cells of its grid."""
    points, weights = tilted_density(scale, label)
    rng = np.random.default_rng(seed)
    cell = points[1, 1] - points[0, 1]
    return points[rng.choice(len(points), count, p=weights)] + cell * (rng.random((count, 2)) - 0.5)


def exact_samples(
    scale: float, label: int, num_samples: int, num_particles: int, num_steps: int, seed: int
) -> np.ndarray:
    """Samples (num_samples, 2) of one class of ``PLANE`` by DDPM with exact networks, each one of several particles."""
    pipe, generator = exact_pipeline(PLANE, "DDPMScheduler", "v_prediction"), torch.Generator().manual_seed(seed)
    call: dict[str, Any] = {"num_inference_steps": num_steps, "num_particles": num_particles}
    parts = torch.full((num_samples,), label).split(max(1, 8192 // num_particles))  # so that memory does not grow
    drawn = [pipe(part, 1, scale, generator=generator, output_type="latent", **call).images for part in parts]
    return torch.cat(drawn).numpy()


def measure_scales(
    scales: Sequence[float], num_samples: int, num_particles: int, num_inference_steps: int, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Errors of DDPM with exact networks at several scales, plain and by weighted particles, for both classes.

    Returns:
        By scale and class the errors of :func:`moment_errors`: ``plain_mean_error`` and ``particles_mean_error`` (in
        standard deviations), ``plain_covariance_error`` and ``particles_covariance_error`` (relative).
    """
    rows: dict[str, dict[str, Any]] = {}
    for scale in tqdm(scales, desc="scales", disable=None):
        for label in (0, 1):
            points, weights = tilted_density(scale, label)
            mean = weights @ points
            truth = mean, np.einsum("n,ni,nj->ij", weights, points - mean, points - mean)
            row = {}
            for name, count in (("plain", 1), ("particles", num_particles)):
                samples = exact_samples(scale, label, num_samples, count, num_inference_steps, seed)
                row[f"{name}_mean_error"], row[f"{name}_covariance_error"] = moment_errors(samples, *truth)
            rows[f"s = {scale:g}, class {label}"] = row
    return rows


def measure_schedulers(
    pipe: Any, reference: Reference, num_images: int = 1000, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Measure every supported scheduler; those that cannot run the pipeline's networks get no values of images.

    Returns:
        By scheduler: ``prediction_types``, ``stochastic``, ``oracle_error`` by steps, and where the pipeline can be run
        ``accuracy`` and ``judge_fid`` by steps, of ``num_images`` each.

    Raises:
        ValueError: the pipeline takes no classes.
    """
    if pipe.classifier is None and not pipe.denoiser_is_conditional:
        raise ValueError("pipe draws no class, so its accuracy cannot be measured; give it a classifier.")
    labels, _ = wanted_classes(num_images, len(pipe.id2label), reference.class_weights)
    possible = {found.__name__ for found in pipe.compatible_schedulers}
    table = {}
    for name, support in tqdm(SUPPORTED.items(), desc="schedulers", disable=None):
        predictions = [kind.removesuffix("_prediction") for kind in support.prediction_types]
        row: dict[str, Any] = {"prediction_types": predictions, "stochastic": support.stochastic}
        row["oracle_error"] = {str(steps): oracle_error(name, steps, seed) for steps in _ORACLE_STEPS}
        if name in possible:
            row |= {"accuracy": {}, "judge_fid": {}}
            for steps in _PIPELINE_STEPS:
                settings = SamplingSettings(num_images, seed, reference.class_weights, name, num_inference_steps=steps)
                judgement = reference.judge(draw_images(pipe, settings).images)
                hits = (judgement.probabilities.argmax(dim=1) == labels).double()
                row["accuracy"][str(steps)] = hits.mean().item()
                row["judge_fid"][str(steps)] = judge_fid(reference.judgement.features, judgement.features)
        table[name.removesuffix("Scheduler")] = row
    return table
