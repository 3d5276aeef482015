"""``mnist-guided figure NAME``: the noise that networks are trained on, in numbers and on images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .figures import check_figure, save_figure
from .options import check_pipeline_folder, load_pipeline

__all__ = ["forward_process", "noise_laws"]


def forward_process(
    output: Path,
    model: str | None = None,
    num_levels: int = 7,
    num_images: int = 10,
    dataset_name: str = "ylecun/mnist",
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Draw test images as noise is added to them, a row a timestep; latents are decoded.

    Example: mnist-guided figure forward-process --output forward.png

    Args:
        output: Picture to write.
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        num_levels: Timesteps, evenly spread from the first to the last.
        num_images: Images, chosen at random.
        dataset_name: Hub id or folder of the data set.
        seed: Of the choice and of the noise.
        device: Where to compute; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the output.
    """
    check_figure(output, force)
    if model is not None:
        check_pipeline_folder(model)
    for name, value, least in (("num_levels", num_levels, 2), ("num_images", num_images, 1)):
        if value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}.")

    import torch
    from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler

    from ..data.images import load_images, to_uint8
    from ..data.posteriors import encode_images
    from ..figures.images import image_rows
    from ..sampling.noise import NoiseLevel, add_noise, training_levels
    from ..seeding import keyed_generator

    pipe = load_pipeline(model, device)
    if pipe.vae is None and tuple(pipe.denoiser.config.sample_shape) != (1, 28, 28):
        raise ValueError(
            f"forward-process draws images; samples of shape {pipe.denoiser.config.sample_shape} are none."
        )
    flow = pipe.config.training_noise["law"] == "flow"
    table = training_levels(pipe.make_scheduler(FlowMatchEulerDiscreteScheduler if flow else DDPMScheduler))
    images = load_images(dataset_name, "test").images
    chosen = images[torch.randperm(len(images), generator=keyed_generator(seed, "choice"))[:num_images]]
    posteriors = encode_images(pipe.vae, chosen, progress=False)
    draws = torch.randn(2, *posteriors.mean.shape, generator=keyed_generator(seed, "noise")).to(posteriors.mean.device)
    clean = posteriors.draw(torch.arange(len(chosen)), draws[0])
    rows, labels = [chosen], ["image"]
    with torch.no_grad():
        for index in torch.linspace(0, len(table.alpha) - 1, num_levels).round().int().tolist():
            level = NoiseLevel(float(table.alpha[index]), float(table.sigma[index]))
            noisy = pipe.decode_latents(add_noise(clean, draws[1], level), "pt")
            rows.append(to_uint8(noisy * 2.0 - 1.0).cpu())
            labels.append(f"t = {index}, alpha = {level.alpha:.3f}")
    save_figure(image_rows([row.numpy() for row in rows], labels), output)
    print(f"{output}: {len(chosen)} images at {num_levels} timesteps; abar_T = {float(table.alpha[-1] ** 2):.2g}.")


def noise_laws(
    output: Path,
    num_train_timesteps: tuple[int, ...] = (20, 100, 200, 1000),
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    force: bool = False,
) -> None:
    """Compare noise laws: how much signal each leaves at every timestep, and at the last.

    Example: mnist-guided figure noise-laws --output laws.png

    Args:
        output: Picture to write.
        num_train_timesteps: Numbers of timesteps T.
        beta_start: First beta of the schedules linear, scaled_linear and sigmoid.
        beta_end: Last beta of the same.
        force: Overwrite the output.
    """
    check_figure(output, force)

    import numpy as np

    from ..evaluation.tables import markdown_table
    from ..figures.curves import Curve, line_panels
    from ..sampling.noise import training_levels
    from ..training.config import DenoiserConfig
    from ..training.noise import MAX_TERMINAL_SIGNAL, noise_scheduler

    schedules = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")
    panels: dict[str, dict[str, Curve]] = {}
    rows = [["beta_schedule", "T", "abar_T", "SNR at T", "ends in noise"]]
    for steps in num_train_timesteps:
        curves = panels[f"T = {steps}"] = {}
        for schedule in schedules:
            settings: dict[str, Any] = {"num_train_timesteps": steps, "beta_schedule": schedule}
            config = DenoiserConfig("", beta_start=beta_start, beta_end=beta_end, **settings)
            config.check()
            signal = training_levels(noise_scheduler(config)).alpha.numpy() ** 2
            curves[schedule] = Curve(np.arange(1, steps + 1) / steps, signal)
            left = float(signal[-1])
            fits = "yes" if left <= MAX_TERMINAL_SIGNAL else "no"
            rows.append([schedule, str(steps), f"{left:.2g}", f"{left / (1 - left):.2g}", fits])
    save_figure(line_panels(panels, "t / T", "abar_t"), output)
    print(markdown_table(rows))
    print(f"{output}: a law ends in noise where abar_T is at most {MAX_TERMINAL_SIGNAL}.")
