"""Which diffusers schedulers can be guided, and whether one fits the networks.

Support is a table, not a guess: a class that is not in it is refused, because a wrong coefficient gives pictures that
look right and are not. Every row is checked against an exact posterior in the tests.

A *noise law* is what the networks were trained on, as JSON in the pipeline's config (:func:`describe_noise`):

``preserving``  a diffusers beta schedule, ``alpha = sqrt(alphas_cumprod[t])``; most schedulers, in all their spaces
``flow``        straight lines from data to noise, ``alpha = 1 - sigma``, ``t = num_train_timesteps * sigma``
``edm``         networks with the preconditioning of Karras et al. 2022, told ``log(sigma) / 4``
``arctan``      the same networks, told ``2 / pi atan(sigma)``
``angle``       the law of IPNDM

Networks of one law cannot be run by a scheduler of another, with one exception: a preserving network under a flow
scheduler, through :func:`~mnist_guided_pipeline.noise.preserving_equivalent`.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers import DDPMScheduler, SchedulerMixin
from torch import Tensor

__all__ = [
    "SUPPORTED",
    "SchedulerSupport",
    "build_scheduler",
    "check_scheduler",
    "compatible_schedulers",
    "describe_noise",
    "preserving_table",
    "scheduler_law",
    "scheduler_prediction_type",
]


class SchedulerSupport(NamedTuple):
    """One row of the table.

    Attributes:
        prediction_types: what the network may predict.
        law: noise law of its networks, unless its settings say otherwise (``use_flow_sigmas``).
        stochastic: ``"no"``, ``"yes"``, or the setting that makes it so.
        note: what a user should know.
    """

    prediction_types: tuple[str, ...]
    law: str = "preserving"
    stochastic: str = "no"
    note: str = ""


_E, _X, _V, _F = "epsilon", "sample", "v_prediction", "flow_prediction"
_DISTILLED = "made for distilled networks: the mean of the samples is right, their spread is too small"
_TORCHSDE = "needs torchsde"

SUPPORTED: dict[str, SchedulerSupport] = {
    "DDPMScheduler": SchedulerSupport((_E, _X, _V), stochastic="yes"),
    "DDPMParallelScheduler": SchedulerSupport((_E, _X, _V), stochastic="yes"),
    "DDIMScheduler": SchedulerSupport((_E, _X, _V), stochastic="eta > 0"),
    "DDIMParallelScheduler": SchedulerSupport((_E, _X, _V), stochastic="eta > 0"),
    "PNDMScheduler": SchedulerSupport((_E, _V), note="v_prediction is mixed before it is converted: less exact"),
    "DPMSolverMultistepScheduler": SchedulerSupport((_E, _X, _V, _F), stochastic="algorithm_type='sde-dpmsolver++'"),
    "DPMSolverSinglestepScheduler": SchedulerSupport((_E, _X, _V, _F), stochastic="algorithm_type='sde-dpmsolver++'"),
    "DEISMultistepScheduler": SchedulerSupport((_E, _X, _V, _F)),
    "UniPCMultistepScheduler": SchedulerSupport((_E, _X, _V, _F)),
    "SASolverScheduler": SchedulerSupport((_E, _X, _V, _F), stochastic="200 <= t <= 800"),
    "EulerDiscreteScheduler": SchedulerSupport((_E, _X, _V), stochastic="s_churn > 0"),
    "EulerAncestralDiscreteScheduler": SchedulerSupport((_E, _V), stochastic="yes"),
    "HeunDiscreteScheduler": SchedulerSupport((_E, _X, _V), note="two network calls a step"),
    "KDPM2DiscreteScheduler": SchedulerSupport((_E, _V), note="two network calls a step"),
    "KDPM2AncestralDiscreteScheduler": SchedulerSupport((_E, _V), stochastic="yes", note="two network calls a step"),
    "LMSDiscreteScheduler": SchedulerSupport((_E, _X, _V), note="needs scipy"),
    "DPMSolverSDEScheduler": SchedulerSupport(
        (_E, _V), stochastic="yes", note=f"{_TORCHSDE}; two network calls a step; seeded by noise_sampler_seed"
    ),
    "LCMScheduler": SchedulerSupport((_E, _X, _V), stochastic="yes", note=_DISTILLED),
    "TCDScheduler": SchedulerSupport((_E, _X, _V), stochastic="eta > 0", note=_DISTILLED),
    "UnCLIPScheduler": SchedulerSupport((_E, _X), stochastic="yes", note="for networks trained on its cosine schedule"),
    "CogVideoXDDIMScheduler": SchedulerSupport((_E, _X, _V), note="set snr_shift_scale=1 for other networks"),
    "IPNDMScheduler": SchedulerSupport((_V,), law="angle"),
    "EDMEulerScheduler": SchedulerSupport((_E, _V), law="edm", stochastic="s_churn > 0"),
    "EDMDPMSolverMultistepScheduler": SchedulerSupport(
        (_E, _V), law="edm", stochastic="algorithm_type='sde-dpmsolver++'"
    ),
    "CosineDPMSolverMultistepScheduler": SchedulerSupport((_E, _V), law="arctan", stochastic="yes", note=_TORCHSDE),
    "FlowMatchEulerDiscreteScheduler": SchedulerSupport((_F,), law="flow", stochastic="stochastic_sampling=True"),
    "FlowMatchHeunDiscreteScheduler": SchedulerSupport((_F,), law="flow", note="two network calls a step"),
    "FlowMatchLCMScheduler": SchedulerSupport((_F,), law="flow", stochastic="yes", note=_DISTILLED),
}

_REFUSED = {
    "AmusedScheduler": ("it samples discrete tokens", "DDIMScheduler"),
    "VQDiffusionScheduler": ("it samples discrete tokens", "DDIMScheduler"),
    "BlockRefinementScheduler": ("it samples discrete tokens", "DDIMScheduler"),
    "CMStochasticIterativeScheduler": ("it runs consistency models, which have no score", "LCMScheduler"),
    "ConsistencyDecoderScheduler": ("it runs consistency models, which have no score", "LCMScheduler"),
    "SCMScheduler": ("it runs consistency models, which have no score", "LCMScheduler"),
    "CogVideoXDPMScheduler": ("it hands on the last prediction itself", "DPMSolverMultistepScheduler"),
    "DiscreteDDIMScheduler": ("it samples discrete tokens", "DDIMScheduler"),
    "EntropyBoundScheduler": ("it samples discrete tokens", "DDIMScheduler"),
    "FlowMapEulerDiscreteScheduler": ("its networks map between two times", "FlowMatchEulerDiscreteScheduler"),
    "HeliosScheduler": ("it is made for one video model", "FlowMatchEulerDiscreteScheduler"),
    "HeliosDMDScheduler": ("it is made for one video model", "FlowMatchEulerDiscreteScheduler"),
    "LTXEulerAncestralRFScheduler": ("it is made for one video model", "FlowMatchEulerDiscreteScheduler"),
    "MiniMaxH3Scheduler": ("its velocity points the other way", "FlowMatchEulerDiscreteScheduler"),
    "PiflowScheduler": ("its networks output a policy", "FlowMatchEulerDiscreteScheduler"),
    "RFD4ProteinaScheduler": ("it is made for proteins", "FlowMatchEulerDiscreteScheduler"),
    "DDIMInverseScheduler": ("it goes from images to noise", "DDIMScheduler"),
    "DPMSolverMultistepInverseScheduler": ("it goes from images to noise", "DPMSolverMultistepScheduler"),
    "DDPMWuerstchenScheduler": ("its timesteps are those of another network", "DDPMScheduler"),
    "KarrasVeScheduler": ("its step is split in two calls", "HeunDiscreteScheduler"),
    "RePaintScheduler": ("it needs an image and a mask", "DDPMScheduler"),
    "ScoreSdeVeScheduler": ("its step is split in two calls", "EulerAncestralDiscreteScheduler"),
    "ScoreSdeVpScheduler": ("its step is split in two calls", "DDPMScheduler"),
}

_BETA_SETTINGS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)


def scheduler_law(scheduler: Any) -> str:
    """The noise law whose networks a supported scheduler runs."""
    if scheduler.config.get("use_flow_sigmas", False):
        return "flow"
    return SUPPORTED[type(scheduler).__name__].law


def scheduler_prediction_type(scheduler: Any) -> str:
    """What a supported scheduler takes the network's output for."""
    support = SUPPORTED[type(scheduler).__name__]
    return scheduler.config.get("prediction_type", support.prediction_types[0])


def compatible_schedulers(training_noise: dict[str, Any]) -> list[type]:
    """The diffusers classes that can run networks of this noise law."""
    return [found for found in (getattr(diffusers, name) for name in SUPPORTED) if _fits(found, training_noise)]


def describe_noise(scheduler: Any) -> dict[str, Any]:
    """The noise law that networks under this scheduler were trained on, as JSON for the pipeline's config.

    Args:
        scheduler: the scheduler the networks were trained with, or one made from its config.

    Returns:
        ``law``, ``prediction_type`` and the settings that define the law; every one of them explicit.

    Raises:
        ValueError: the scheduler is not supported.
    """
    _check_known(type(scheduler).__name__)
    law, config = scheduler_law(scheduler), scheduler.config
    described: dict[str, Any] = {"law": law, "prediction_type": scheduler_prediction_type(scheduler)}
    if law == "flow":
        described["num_train_timesteps"] = config.num_train_timesteps
    elif law in ("edm", "arctan"):
        described["sigma_data"] = config.sigma_data
    elif law == "preserving":
        described.update({name: config[name] for name in _BETA_SETTINGS if config.get(name) is not None})
        if not _same_table(scheduler, described):  # the class makes its table in a way of its own
            described = {name: described[name] for name in ("law", "prediction_type", "num_train_timesteps")}
            described["trained_betas"] = _betas(scheduler.alphas_cumprod)
    return described


def preserving_table(training_noise: dict[str, Any]) -> Tensor:
    """``alphas_cumprod`` (num_train_timesteps,) of a preserving law from :func:`describe_noise`."""
    settings = {name: value for name, value in training_noise.items() if name in _BETA_SETTINGS}
    return DDPMScheduler(**settings).alphas_cumprod


def check_scheduler(scheduler: Any, training_noise: dict[str, Any]) -> None:
    """Refuse a scheduler that would sample wrongly with these networks.

    Args:
        scheduler: any object.
        training_noise: from :func:`describe_noise`, what the networks were trained on.

    Raises:
        ValueError: the class is not supported; or its settings do not fit, with the line that mends it.
    """
    name = type(scheduler).__name__
    _check_known(name)
    config = scheduler.config
    law, trained_law = scheduler_law(scheduler), training_noise["law"]
    mend = f"pipe.scheduler = pipe.make_scheduler({name})"
    adapted = law == "flow" and trained_law == "preserving"
    if law != trained_law and not adapted:
        wanted = training_noise["prediction_type"]
        fitting = [key for key, row in SUPPORTED.items() if row.law == trained_law and wanted in row.prediction_types]
        raise ValueError(
            f"{name} runs networks of law {law!r}, these were trained on {trained_law!r}. Use {', '.join(fitting)}."
        )
    prediction_type = scheduler_prediction_type(scheduler)
    known = SUPPORTED[name].prediction_types
    allowed = tuple(kind for kind in known if law != "flow" or kind != _V)  # v is defined on the unit circle only
    if prediction_type not in allowed or (prediction_type == _F and law != "flow"):
        raise ValueError(
            f"{name} does not work with prediction_type {prediction_type!r} here, only with {', '.join(allowed)}. "
            "Use a scheduler that does, such as DDIMScheduler."
        )
    trained_type = training_noise["prediction_type"]
    if not adapted and prediction_type != trained_type:
        usable = mend if trained_type in allowed else "a scheduler that takes that, such as DDIMScheduler"
        raise ValueError(
            f"{name} takes the denoiser's output for {prediction_type!r}, but the denoiser was trained for "
            f"{trained_type!r}. Use {usable}."
        )
    if prediction_type == _E and trained_law == "preserving" and preserving_table(training_noise)[-1] < 1e-12:
        raise ValueError(
            f"{name} has prediction_type 'epsilon' on a noise schedule that ends in pure noise "
            "(rescale_betas_zero_snr=True): there a prediction of the noise says nothing about the sample. Train with "
            "prediction_type='v_prediction', or without rescale_betas_zero_snr."
        )
    if config.get("clip_sample", False):
        limit = config.get("clip_sample_range", 1.0)
        raise ValueError(
            f"{name} has clip_sample=True, which clips the predicted sample to +-{limit}: latents are not in that "
            f"range, and guided samples lose their spread. Use {mend}, or set clip_sample=False."
        )
    if config.get("thresholding", False):
        raise ValueError(
            f"{name} has thresholding=True, which is made for pixels in [-1, 1]. Use {mend}, or set thresholding=False."
        )
    if not adapted:
        _check_settings(scheduler, training_noise, mend)


def build_scheduler(scheduler_class: type[SchedulerMixin], training_noise: dict[str, Any], **options: Any) -> Any:
    """A scheduler of another class on the same noise law, with nothing dropped.

    Args:
        scheduler_class: a supported diffusers class.
        training_noise: from :func:`describe_noise`.
        options: further settings of the class, such as ``use_karras_sigmas=True``.

    Raises:
        ValueError: the class is not supported, or does not have an option.
    """
    _check_known(scheduler_class.__name__)
    parameters = inspect.signature(scheduler_class.__init__).parameters
    unknown = sorted(options.keys() - parameters.keys())
    if unknown:
        known = ", ".join(list(parameters)[1:])
        raise ValueError(f"{scheduler_class.__name__} has no setting {', '.join(unknown)}; it has {known}.")
    settings = {**training_noise, "clip_sample": False, "timestep_spacing": "trailing", "snr_shift_scale": 1.0}
    if training_noise["law"] == "flow":
        settings["use_flow_sigmas"] = True
    elif options.get("use_flow_sigmas", False):
        settings["prediction_type"] = _F
    settings.update(options)
    accepted = {name: value for name, value in settings.items() if name in parameters}
    try:
        scheduler = scheduler_class(**accepted)
    except NotImplementedError:  # the class does not know this beta_schedule by name, but takes its betas
        accepted["trained_betas"] = _betas(preserving_table(training_noise))
        scheduler = scheduler_class(**accepted)
    # settings that this class has no use for stay in its config, so that Other.from_config(scheduler.config) finds them
    kept = ("clip_sample", "timestep_spacing", *_BETA_SETTINGS)
    scheduler.register_to_config(
        **{name: settings[name] for name in kept if name in settings and name not in parameters}
    )
    check_scheduler(scheduler, training_noise)
    return scheduler


def _betas(alphas_cumprod: Tensor) -> list[float]:
    """The betas of a table ``alphas_cumprod`` (T,)."""
    table = alphas_cumprod.double()
    return (1.0 - table / torch.cat([table.new_ones(1), table[:-1]])).tolist()


def _fits(scheduler_class: type, training_noise: dict[str, Any]) -> bool:
    try:
        build_scheduler(scheduler_class, training_noise)
    except (ValueError, ImportError):  # another law or prediction type; a package it needs is missing
        return False
    return True


def _check_known(name: str) -> None:
    if name in SUPPORTED:
        return
    if name in _REFUSED:
        reason, substitute = _REFUSED[name]
        raise ValueError(f"{name} cannot be guided: {reason}. A good substitute is {substitute}.")
    raise ValueError(
        f"{name} is not known to this version of mnist_guided_pipeline, so it cannot be guided safely. Known are "
        f"{', '.join(SUPPORTED)}. A good substitute is DDIMScheduler."
    )


def _same_table(scheduler: Any, training_noise: dict[str, Any]) -> bool:
    expected, found = preserving_table(training_noise).double(), scheduler.alphas_cumprod.double().cpu()
    return expected.shape == found.shape and torch.allclose(expected, found, rtol=1e-3, atol=1e-6)


def _check_settings(scheduler: Any, training_noise: dict[str, Any], mend: str) -> None:
    """The settings that define the law must be those of training."""
    config, name = scheduler.config, type(scheduler).__name__
    if training_noise["law"] == "preserving":
        fits = _same_table(scheduler, training_noise)
    else:
        fits = all(config.get(key, value) == value for key, value in training_noise.items())
    if not fits:
        different = [
            f"{key} is {config.get(key)!r}, trained on {value!r}"
            for key, value in training_noise.items()
            if key in (*_BETA_SETTINGS, "sigma_data") and key != "trained_betas" and config.get(key) != value
        ]
        raise ValueError(
            f"{name} has another noise schedule than the networks were trained on "
            f"({'; '.join(different) or 'alphas_cumprod differs'}). Scheduler.from_config drops settings that the "
            f"other scheduler left at its default. Use {mend}."
        )
