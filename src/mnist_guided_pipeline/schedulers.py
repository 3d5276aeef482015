"""Which diffusers schedulers can be guided, and whether one fits the networks.

Support is a table, not a guess: a class that is not in it is refused, because a wrong coefficient gives pictures that
look right and are not. Every row is checked against an exact posterior in the tests.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers import DDPMScheduler
from torch import Tensor

__all__ = [
    "SUPPORTED",
    "SchedulerSupport",
    "build_scheduler",
    "check_scheduler",
    "describe_noise",
    "preserving_table",
    "scheduler_prediction_type",
]


class SchedulerSupport(NamedTuple):
    """One row of the table.

    Attributes:
        prediction_types: what the network may predict.
        stochastic: ``"no"``, ``"yes"``, or the option that makes it so.
        note: what a user should know.
    """

    prediction_types: tuple[str, ...]
    stochastic: str = "no"
    note: str = ""


_E, _X, _V, _F = "epsilon", "sample", "v_prediction", "flow_prediction"

SUPPORTED: dict[str, SchedulerSupport] = {
    "DDPMScheduler": SchedulerSupport((_E, _X, _V), "yes"),
    "DDIMScheduler": SchedulerSupport((_E, _X, _V), "eta > 0"),
    "DPMSolverMultistepScheduler": SchedulerSupport((_E, _X, _V, _F), "algorithm_type='sde-dpmsolver++'"),
    "EulerDiscreteScheduler": SchedulerSupport((_E, _X, _V), "s_churn > 0"),
}

_BETA_SETTINGS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)


def scheduler_prediction_type(scheduler: Any) -> str:
    """What the scheduler takes the network's output for."""
    return scheduler.config.get("prediction_type", _E)


def describe_noise(scheduler: Any) -> dict[str, Any]:
    """The noise law that networks under this scheduler were trained on, as JSON for the pipeline's config.

    Args:
        scheduler: the scheduler the networks were trained with, or one made from its config.

    Returns:
        ``prediction_type`` and the settings that define ``alphas_cumprod``; every one of them explicit.
    """
    config = scheduler.config
    settings = {name: config[name] for name in _BETA_SETTINGS if config.get(name) is not None}
    if settings.get("trained_betas") is not None:
        settings["trained_betas"] = [float(beta) for beta in settings["trained_betas"]]
    return {"prediction_type": scheduler_prediction_type(scheduler), **settings}


def preserving_table(training_noise: dict[str, Any]) -> Tensor:
    """``alphas_cumprod`` (num_train_timesteps,) of a law from :func:`describe_noise`."""
    return DDPMScheduler(**training_noise).alphas_cumprod


def check_scheduler(scheduler: Any, training_noise: dict[str, Any]) -> None:
    """Refuse a scheduler that would sample wrongly with these networks.

    Args:
        scheduler: any object.
        training_noise: from :func:`describe_noise`, what the networks were trained on.

    Raises:
        ValueError: the class is not supported; or its settings do not fit, with the line that mends it.
    """
    name = type(scheduler).__name__
    if name not in SUPPORTED:
        raise ValueError(
            f"{name} is not a scheduler that can be guided here. Supported are {', '.join(SUPPORTED)}; "
            f"swap with pipe.scheduler = pipe.make_scheduler(DDIMScheduler)."
        )
    mend = f"pipe.scheduler = pipe.make_scheduler({name})"
    support, config = SUPPORTED[name], scheduler.config
    prediction_type = scheduler_prediction_type(scheduler)
    if prediction_type not in support.prediction_types:
        raise ValueError(
            f"{name} does not work with prediction_type {prediction_type!r}, only with "
            f"{', '.join(support.prediction_types)}. Use a scheduler that does, such as DDIMScheduler."
        )
    if prediction_type != training_noise["prediction_type"]:
        raise ValueError(
            f"{name} takes the denoiser's output for {prediction_type!r}, but the denoiser was trained for "
            f"{training_noise['prediction_type']!r}. Use {mend}."
        )
    if config.get("clip_sample", False):
        raise ValueError(
            f"{name} has clip_sample=True, which clips the predicted sample to +-{config.get('clip_sample_range', 1.0)}: "
            f"latents are not in that range, and guided samples lose their spread. Use {mend}, or set clip_sample=False."
        )
    if config.get("thresholding", False):
        raise ValueError(
            f"{name} has thresholding=True, which is made for pixels in [-1, 1]. Use {mend}, or set thresholding=False."
        )
    expected, found = preserving_table(training_noise), scheduler.alphas_cumprod.cpu()
    if expected.shape != found.shape or not torch.allclose(expected.to(found.dtype), found, rtol=1e-3, atol=1e-6):
        raise ValueError(
            f"{name} has another noise schedule than the networks were trained on "
            f"({_differences(config, training_noise)}). Scheduler.from_config drops settings that the other scheduler "
            f"left at its default. Use {mend}."
        )


def build_scheduler(scheduler_class: type, training_noise: dict[str, Any], **options: Any) -> Any:
    """A scheduler of another class on the same noise law, with nothing dropped.

    Args:
        scheduler_class: a supported diffusers class.
        training_noise: from :func:`describe_noise`.
        options: further settings of the class, such as ``use_karras_sigmas=True``.

    Raises:
        ValueError: the class is not supported, or does not have an option.
    """
    import inspect

    parameters = inspect.signature(scheduler_class.__init__).parameters
    unknown = sorted(options.keys() - parameters.keys())
    if unknown:
        raise ValueError(
            f"{scheduler_class.__name__} has no setting {', '.join(unknown)}; it has {', '.join(list(parameters)[1:])}."
        )
    settings = {**training_noise, "clip_sample": False, "timestep_spacing": "trailing", **options}
    scheduler = scheduler_class(**{name: value for name, value in settings.items() if name in parameters})
    check_scheduler(scheduler, training_noise)
    return scheduler


def _differences(config: Any, training_noise: dict[str, Any]) -> str:
    different = [
        f"{name} is {config.get(name)!r}, trained on {value!r}"
        for name, value in training_noise.items()
        if name in _BETA_SETTINGS and config.get(name) != value
    ]
    return "; ".join(different) or "alphas_cumprod differs"
