"""Which diffusers schedulers can be guided, and whether one fits the networks.

Support is a table, not a guess: a class that is not in it is refused, because a wrong coefficient gives pictures that
look right and are not. Every row is checked against an exact posterior in the tests.

A *noise schedule* is what the networks were trained on, as JSON in the pipeline's config (:func:`describe_noise`):

``preserving``  a diffusers beta schedule, ``alpha = sqrt(alphas_cumprod[t])``; most schedulers, in all their spaces
``flow``        straight lines from data to noise, ``alpha = 1 - sigma``, ``t = num_train_timesteps * sigma``
``edm``         networks with the preconditioning of Karras et al. 2022, given ``log(sigma) / 4``
``arctan``      the same networks, given ``2 / pi atan(sigma)``
``angle``       that of IPNDM

Networks of one noise schedule cannot be run by a scheduler of another, with one exception: a preserving network under
a flow scheduler, through :func:`~mnist_guided_pipeline.sampling.noise.preserving_equivalent`.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import diffusers
import torch
from diffusers import DDPMScheduler, SchedulerMixin
from torch import Tensor


class SchedulerSupport(NamedTuple):
    """One row of the table.

    Attributes:
        prediction_types: what the network may predict.
        family: which coefficients the scheduler works with: ``"vp"`` (a table over integer timesteps), ``"dpm"``
            (variance-preserving latents with ``sigmas``), ``"sigma"`` (variance-exploding latents), ``"flow"``
            (straight lines), ``"edm"`` (Karras preconditioning) or ``"ipndm"``.
        schedule: noise schedule of its networks, unless its settings say otherwise (``use_flow_sigmas``).
        stochastic: ``"no"``, ``"yes"``, or the setting that makes it so.
    """

    prediction_types: tuple[str, ...]
    family: str
    schedule: str = "preserving"
    stochastic: str = "no"


_E, _X, _V, _F = "epsilon", "sample", "v_prediction", "flow_prediction"
_SDE = "algorithm_type='sde-dpmsolver++'"

SUPPORTED: dict[str, SchedulerSupport] = {
    "DDPMScheduler": SchedulerSupport((_E, _X, _V), "vp", stochastic="yes"),
    "DDPMParallelScheduler": SchedulerSupport((_E, _X, _V), "vp", stochastic="yes"),
    "DDIMScheduler": SchedulerSupport((_E, _X, _V), "vp", stochastic="eta > 0"),
    "DDIMParallelScheduler": SchedulerSupport((_E, _X, _V), "vp", stochastic="eta > 0"),
    "PNDMScheduler": SchedulerSupport((_E, _V), "vp"),  # v is mixed before it is converted: less exact
    "DPMSolverMultistepScheduler": SchedulerSupport((_E, _X, _V, _F), "dpm", stochastic=_SDE),
    "DPMSolverSinglestepScheduler": SchedulerSupport((_E, _X, _V, _F), "dpm", stochastic=_SDE),
    "DEISMultistepScheduler": SchedulerSupport((_E, _X, _V, _F), "dpm"),
    "UniPCMultistepScheduler": SchedulerSupport((_E, _X, _V, _F), "dpm"),
    "SASolverScheduler": SchedulerSupport((_E, _X, _V, _F), "dpm", stochastic="200 <= t <= 800"),
    "EulerDiscreteScheduler": SchedulerSupport((_E, _X, _V), "sigma", stochastic="s_churn > 0"),
    "EulerAncestralDiscreteScheduler": SchedulerSupport((_E, _V), "sigma", stochastic="yes"),
    "HeunDiscreteScheduler": SchedulerSupport((_E, _X, _V), "sigma"),
    "KDPM2DiscreteScheduler": SchedulerSupport((_E, _V), "sigma"),
    "KDPM2AncestralDiscreteScheduler": SchedulerSupport((_E, _V), "sigma", stochastic="yes"),
    "LMSDiscreteScheduler": SchedulerSupport((_E, _X, _V), "sigma"),  # needs scipy
    "DPMSolverSDEScheduler": SchedulerSupport((_E, _V), "sigma", stochastic="yes"),  # needs torchsde
    # LCM and FlowMatchLCM are made for distilled networks: the mean of the samples is right, their spread too small
    "LCMScheduler": SchedulerSupport((_E, _X, _V), "vp", stochastic="yes"),
    "TCDScheduler": SchedulerSupport((_E, _X, _V), "vp", stochastic="eta > 0"),
    "UnCLIPScheduler": SchedulerSupport((_E, _X), "vp", stochastic="yes"),  # has a cosine schedule of its own
    "CogVideoXDDIMScheduler": SchedulerSupport((_E, _X, _V), "vp"),  # fits other networks with snr_shift_scale=1
    "IPNDMScheduler": SchedulerSupport((_V,), "ipndm", "angle"),
    "EDMEulerScheduler": SchedulerSupport((_E, _V), "edm", "edm", stochastic="s_churn > 0"),
    "EDMDPMSolverMultistepScheduler": SchedulerSupport((_E, _V), "edm", "edm", stochastic=_SDE),
    "CosineDPMSolverMultistepScheduler": SchedulerSupport((_E, _V), "edm", "arctan", stochastic="yes"),  # torchsde
    "FlowMatchEulerDiscreteScheduler": SchedulerSupport((_F,), "flow", "flow", stochastic="stochastic_sampling=True"),
    "FlowMatchHeunDiscreteScheduler": SchedulerSupport((_F,), "flow", "flow"),
    "FlowMatchLCMScheduler": SchedulerSupport((_F,), "flow", "flow", stochastic="yes"),
}

_BETA_SETTINGS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)

_TO_ZERO = {"final_sigmas_type": "zero"}
_UNIPC, _SA, _COSINE = ("UniPCMultistepScheduler",), ("SASolverScheduler",), ("CosineDPMSolverMultistepScheduler",)
_OF_ANOTHER_KIND = "spreads the steps over noise levels that are not those of straight lines"
_COARSE = "spreads the steps so unevenly that samples are far from right unless there are hundreds"
_NOT_BY_BETA = (  # the solvers in lambda begin where no signal is left to guide by
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler"),
    *("UniPCMultistepScheduler", "SASolverScheduler"),
    *("HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "KDPM2AncestralDiscreteScheduler"),
)

# Settings that cannot work here: together, in which classes (all, where none is named), and what they do. ``...`` is
# any value that is not empty.
_UNUSABLE: tuple[tuple[dict[str, Any], tuple[str, ...], str], ...] = (
    ({"variance_type": "fixed_large_log"}, (), "takes the square root of a negative logarithm"),
    ({"use_dynamic_shifting": True}, (), "wants a shift for every size of image, which a call does not give"),
    ({"invert_sigmas": True}, (), "runs from samples to noise"),
    ({"timestep_type": "continuous"}, (), "gives the networks a logarithm of the noise level for a timestep"),
    ({"predict_x0": False, **_TO_ZERO}, _UNIPC, "divides by the last noise level"),
    ({"solver_type": "bh1", **_TO_ZERO}, _UNIPC, "divides by the last noise level"),
    ({"lower_order_final": False, **_TO_ZERO}, _UNIPC, "divides by the last noise level"),
    ({"lower_order_final": False}, _SA, "extrapolates over the last step, far from right"),
    ({"solver_order": 3}, _COSINE, "is not written there"),
    ({"final_sigmas_type": "sigma_min"}, _COSINE, "asks its tree of noise for a step of no length"),
    ({"algorithm_type": "noise_prediction", "use_flow_sigmas": True}, _SA, "is not written there"),
    ({"use_karras_sigmas": True, "use_flow_sigmas": True}, (), _OF_ANOTHER_KIND),
    ({"use_exponential_sigmas": True, "use_flow_sigmas": True}, (), _OF_ANOTHER_KIND),
    ({"use_lu_lambdas": True, "use_flow_sigmas": True}, (), _OF_ANOTHER_KIND),
    ({"use_karras_sigmas": True}, _SA, _COARSE),
    ({"use_exponential_sigmas": True}, _SA, _COARSE),
    ({"use_beta_sigmas": True}, _NOT_BY_BETA, _COARSE),
    ({"scale_factors": ...}, (), "changes latents' size between steps"),
    ({"solver_p": ...}, (), "has a noise schedule of its own"),
    ({"clip_sample": True}, (), "clips the predicted sample: latents go beyond, and guided ones lose their spread"),
    ({"thresholding": True}, (), "is made for pixels in [-1, 1]"),
)

_LEAST_SIGMA = 1e-6  # of straight lines, whose schedulers add the step to 0 themselves

# steps of second order that are lost between the last two timesteps of a schedule that ends in almost pure noise
_NOT_FROM_PURE_NOISE = ("HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler")
_ALMOST_PURE_NOISE = 1e-5  # of alphas_cumprod


def find_support(scheduler: Any) -> SchedulerSupport:
    """The row of a supported scheduler, of its class, or of the name of that; a ValueError for any other."""
    kind = scheduler if isinstance(scheduler, (str, type)) else type(scheduler)
    name = kind if isinstance(kind, str) else kind.__name__
    if name not in SUPPORTED:
        raise ValueError(
            f"scheduler {name} is not supported, as its samples could be wrong; use one of {', '.join(SUPPORTED)}."
        )
    return SUPPORTED[name]


def scheduler_family(scheduler: Any) -> str:
    """Which coefficients a supported scheduler works with, see :class:`SchedulerSupport`."""
    return "flow" if _uses_flow_sigmas(scheduler) else find_support(scheduler).family


def scheduler_schedule(scheduler: Any) -> str:
    """The kind of noise schedule whose networks a supported scheduler runs."""
    return "flow" if _uses_flow_sigmas(scheduler) else find_support(scheduler).schedule


def scheduler_prediction_type(scheduler: Any) -> str:
    """What a supported scheduler takes the network's output for."""
    return scheduler.config.get("prediction_type", find_support(scheduler).prediction_types[0])


def trained_range(scheduler: Any, name: str) -> tuple[float, float]:
    """Lowest and highest ``"timesteps"`` or ``"sigmas"`` that networks under a supported scheduler were trained on.

    A scheduler that refuses custom sigmas, or reads them as something else, is a ValueError.
    """
    family, last = scheduler_family(scheduler), scheduler.config.num_train_timesteps
    if name == "timesteps" and type(scheduler).__name__ in _NOT_FROM_PURE_NOISE:
        return 0, int((scheduler.alphas_cumprod > _ALMOST_PURE_NOISE).sum()) - 1
    if name == "timesteps":
        return (_LEAST_SIGMA * last, last) if family == "flow" else (0, last - 1)
    if family == "flow":
        return _LEAST_SIGMA, 1.0
    if family == "sigma":  # given with the 0 at the end, and steps are one fewer
        signal = float(scheduler.alphas_cumprod[-1])
        return 0.0, (1.0 + 1e-3) * ((1.0 - signal) / signal) ** 0.5
    raise ValueError(f"{type(scheduler).__name__} takes no custom sigmas with these settings; leave sigmas None.")


def compatible_schedulers(training_noise: dict[str, Any]) -> list[type]:
    """The diffusers classes that can run networks of this noise schedule."""
    fitting = []
    for name in SUPPORTED:  # others have another schedule or prediction type, or need a package that is missing
        with contextlib.suppress(ValueError, ImportError):
            fitting.append(type(build_scheduler(name, training_noise)))
    return fitting


def describe_noise(scheduler: Any) -> dict[str, Any]:
    """The noise schedule that networks under a supported scheduler were trained on, as JSON for the pipeline's config.

    ``law``, ``prediction_type`` and the settings that define the schedule; every one of them explicit.
    """
    law, config = scheduler_schedule(scheduler), scheduler.config
    described: dict[str, Any] = {"law": law, "prediction_type": scheduler_prediction_type(scheduler)}
    if law == "flow":
        described["num_train_timesteps"] = config.num_train_timesteps
    elif law in ("edm", "arctan"):
        described["sigma_data"] = config.sigma_data
    elif law == "preserving":
        described.update({name: config[name] for name in _BETA_SETTINGS if config.get(name) is not None})
        if not same_table(scheduler.alphas_cumprod, preserving_table(described)):  # made in a way of its own
            described = {name: described[name] for name in ("law", "prediction_type", "num_train_timesteps")}
            described["trained_betas"] = _betas(scheduler.alphas_cumprod)
    return described


def preserving_table(training_noise: dict[str, Any]) -> Tensor:
    """``alphas_cumprod`` (num_train_timesteps,) of a preserving noise schedule from :func:`describe_noise`."""
    settings = {name: value for name, value in training_noise.items() if name in _BETA_SETTINGS}
    return DDPMScheduler(**settings).alphas_cumprod


def same_table(first: Tensor, second: Tensor) -> bool:
    """Whether two tables ``alphas_cumprod`` are of one noise schedule; those of its classes differ by rounding."""
    first, second = first.double().cpu(), second.double().cpu()
    return first.shape == second.shape and torch.allclose(first, second, rtol=1e-3, atol=1e-6)


def check_scheduler(scheduler: Any, training_noise: dict[str, Any]) -> None:
    """Refuse a scheduler that would sample wrongly with networks of this noise schedule, from :func:`describe_noise`.

    Where its settings do not fit, the error has the line that fixes it.
    """
    name, support, config = type(scheduler).__name__, find_support(scheduler), scheduler.config
    law, trained_law = scheduler_schedule(scheduler), training_noise["law"]
    fix = f"or, in a pipeline of this package, pipe.scheduler = pipe.make_scheduler({name})"
    adapted = law == "flow" and trained_law == "preserving"
    if law != trained_law and not adapted:
        wanted = training_noise["prediction_type"]
        fitting = [
            key for key, row in SUPPORTED.items() if row.schedule == trained_law and wanted in row.prediction_types
        ]
        raise ValueError(
            f"{name} runs networks of the noise schedule {law!r}, these were trained on {trained_law!r}. "
            f"Use {', '.join(fitting)}."
        )
    prediction_type = scheduler_prediction_type(scheduler)
    allowed = tuple(
        kind for kind in support.prediction_types if law != "flow" or kind != _V
    )  # v is defined on the unit circle only
    if prediction_type not in allowed or (prediction_type == _F and law != "flow"):
        raise ValueError(
            f"{name} does not work with prediction_type {prediction_type!r} here, only with {', '.join(allowed)}. "
            "Use a scheduler that does, such as DDIMScheduler."
        )
    trained_type = training_noise["prediction_type"]
    if not adapted and prediction_type != trained_type:
        usable = f"Set prediction_type={trained_type!r}, {fix}"
        if trained_type not in allowed:
            usable = "Use a scheduler that takes that, such as DDIMScheduler"
        raise ValueError(
            f"{name} takes the denoiser's output for {prediction_type!r}, but the denoiser was trained for "
            f"{trained_type!r}. {usable}."
        )
    for settings, classes, effect in _UNUSABLE:
        is_set = [config.get(key) == value or (value is ... and config.get(key)) for key, value in settings.items()]
        if all(is_set) and (not classes or name in classes):
            found = " and ".join(key if value is ... else f"{key}={value!r}" for key, value in settings.items())
            remedy = f"Leave {' and '.join(settings)} out"
            if all(value is True for value in settings.values()):
                remedy = f"Set {' and '.join(f'{key}=False' for key in settings)}"
            raise ValueError(f"{name} has {found}, which {effect}. {remedy}, {fix}.")
    spacing = config.get("timestep_spacing", "leading")
    if name in _NOT_FROM_PURE_NOISE and spacing != "leading" and law == trained_law == "preserving":
        if preserving_table(training_noise)[-1] < _ALMOST_PURE_NOISE:
            raise ValueError(
                f"{name} has timestep_spacing={spacing!r}, with which it starts where the noise schedule is almost "
                f"pure noise, and its samples are far from right. Set timestep_spacing='leading', {fix}."
            )
    if prediction_type == _E and trained_law == "preserving" and preserving_table(training_noise)[-1] < 1e-12:
        raise ValueError(
            f"{name} has prediction_type 'epsilon' on a noise schedule that ends in pure noise "
            "(rescale_betas_zero_snr=True): there a prediction of the noise says nothing about the sample. Train with "
            "prediction_type='v_prediction', or without rescale_betas_zero_snr."
        )
    if not adapted:
        _check_settings(scheduler, training_noise, fix)


def check_steps(scheduler: Any, num_inference_steps: int) -> None:
    """Refuse more steps than training timesteps, or fewer than PNDM's Runge-Kutta start takes."""
    name, most = type(scheduler).__name__, scheduler.config.get("num_train_timesteps", math.inf)
    fewest = 4 if name == "PNDMScheduler" else 1
    if not fewest <= num_inference_steps <= most:
        raise ValueError(
            f"num_inference_steps must be from {fewest} to {most} under {name}, got {num_inference_steps}."
        )


def check_taken(scheduler: Any, timesteps: Sequence[float]) -> None:
    """Refuse timesteps that a scheduler, after ``set_timesteps``, does not run at.

    It may cut them to whole numbers, or a setting such as ``shift`` moves its noise levels elsewhere.
    """
    wanted, taken = torch.as_tensor(timesteps).double(), scheduler.timesteps.unique().flip(0).double()
    if scheduler_family(scheduler) == "flow":
        taken = scheduler.sigmas[:-1].double() * scheduler.config.num_train_timesteps
    if taken.shape != wanted.shape or not torch.allclose(taken, wanted, rtol=0.0, atol=1e-2):
        raise ValueError(
            f"timesteps {timesteps!r} become {[round(number, 2) for number in taken.tolist()]} under "
            f"{type(scheduler).__name__}: give those that it takes, or leave out its settings that move them."
        )


def build_scheduler(scheduler_class: type[SchedulerMixin] | str, training_noise: dict[str, Any], **options: Any) -> Any:
    """A scheduler of another class on the same noise schedule, from :func:`describe_noise`, with nothing dropped.

    ``options`` are further settings of the class, such as ``use_karras_sigmas=True``. A class that is not supported or
    an option that it does not have is a ValueError.
    """
    find_support(scheduler_class)
    kind = getattr(diffusers, scheduler_class) if isinstance(scheduler_class, str) else scheduler_class
    parameters = inspect.signature(kind.__init__).parameters
    unknown = sorted(options.keys() - parameters.keys())
    if unknown:
        known = ", ".join(list(parameters)[1:])
        raise ValueError(f"{kind.__name__} has no setting {', '.join(unknown)}; it has {known}.")
    settings = {**training_noise, "clip_sample": False, "timestep_spacing": "leading", "snr_shift_scale": 1.0}
    if training_noise["law"] == "flow":
        settings["use_flow_sigmas"] = True
    elif options.get("use_flow_sigmas", False):
        settings["prediction_type"] = _F
    settings.update(options)
    accepted = {name: value for name, value in settings.items() if name in parameters}
    try:
        try:
            scheduler = kind(**accepted)
        except NotImplementedError:  # the class does not know this beta_schedule by name, but takes its betas
            if "trained_betas" not in parameters:
                raise
            accepted["trained_betas"] = _betas(preserving_table(training_noise))
            scheduler = kind(**accepted)
        # settings that this class has no use for stay in its config: Other.from_config(scheduler.config) finds them
        kept = ("clip_sample", "timestep_spacing", *_BETA_SETTINGS)
        unused = {name: settings[name] for name in kept if name in settings and name not in parameters}
        scheduler.register_to_config(**unused)
        check_scheduler(scheduler, training_noise)
        if options:
            _try_steps(copy.deepcopy(scheduler))
    except ImportError:  # of a package that the class needs
        raise
    except Exception as error:  # whatever a class makes of wrong values
        if not options:
            raise
        problem = str(error) or type(error).__name__
        raise ValueError(f"{kind.__name__} does not work with {options}: {problem}") from error
    return scheduler


def _try_steps(scheduler: Any) -> None:
    """Steps from nothing to nothing, which meet values that the constructor did not look at."""
    learned = str(scheduler.config.get("variance_type")).startswith("learned")
    sample, output = torch.zeros(1, 1), torch.zeros(1, 1 + learned)
    with torch.random.fork_rng(devices=[]):
        scheduler.set_timesteps(4)
        if hasattr(scheduler, "set_begin_index"):  # else timesteps that are equal are mistaken for one another
            scheduler.set_begin_index(0)
        for timestep in scheduler.timesteps:
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(sample, timestep)
            scheduler.step(output, timestep, sample)


def _uses_flow_sigmas(scheduler: Any) -> bool:
    return getattr(scheduler, "config", {}).get("use_flow_sigmas", False)


def _betas(alphas_cumprod: Tensor) -> list[float]:
    """The betas of a table ``alphas_cumprod`` (T,)."""
    table = alphas_cumprod.double()
    return (1.0 - table / torch.cat([table.new_ones(1), table[:-1]])).tolist()


def _check_settings(scheduler: Any, training_noise: dict[str, Any], fix: str) -> None:
    """The settings that define the schedule must be those of training."""
    config, name = scheduler.config, type(scheduler).__name__
    if training_noise["law"] == "preserving":
        fits = same_table(scheduler.alphas_cumprod, preserving_table(training_noise))
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
            f"other scheduler left at its default. Give it those of training, {fix}."
        )
