"""Every setting of every supported scheduler draws, or is refused with words that name it."""

import inspect
import typing

import diffusers
import pytest
import torch

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.evaluation.oracle import (
    _SETTINGS,
    COSINE,
    PLANE,
    even_noise,
    exact_pipeline,
    make_scheduler,
    moment_errors,
)
from mnist_guided_pipeline.models.mixture import MixtureClassifier, MixtureDenoiser
from mnist_guided_pipeline.sampling.schedulers import SUPPORTED
from tiny import seeds

OF_THE_NOISE_SCHEDULE = {  # settled by training; test_schedulers.py has what becomes of others
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr"),
    *("prediction_type", "sigma_data", "use_flow_sigmas"),
}
OF_ANOTHER_SETTING = {  # read only where another one is on, which is refused
    *("clip_sample_range", "sample_max_value", "dynamic_thresholding_ratio"),
    *("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift", "upscale_mode"),
}
VALUES: dict[str, tuple] = {  # what to try where neither a default nor an annotation says it
    **dict.fromkeys(("solver_order", "predictor_order", "corrector_order"), (1, 2, 3)),
    "algorithm_type": ("data_prediction", "noise_prediction"),
    "disable_corrector": ([0],),
    "flow_shift": (3.0,),
    "interpolation_type": ("linear", "log_linear"),
    "lambda_min_clipped": (-5.1,),
    "noise_sampler_seed": (0,),
    "original_inference_steps": (100,),
    "rho": (3.0,),
    "scale_factors": ([0.5, 1.0],),
    "shift": (3.0,),
    "shift_terminal": (0.1,),
    "sigma_max": (20.0,),
    "sigma_min": (0.01,),
    "snr_shift_scale": (3.0,),
    "solver_p": (diffusers.DDIMScheduler(),),
    "steps_offset": (1,),
    "tau_func": (lambda timestep: 0.0,),
    "timestep_scaling": (5.0,),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "variance_type": ("learned", "learned_range"),
}


def choices(annotation) -> tuple:
    """The values of a ``Literal``, wherever it stands in an annotation."""
    if typing.get_origin(annotation) is typing.Literal:
        return typing.get_args(annotation)
    return sum(map(choices, typing.get_args(annotation)), ())


def settings_of(name: str):
    """(setting, value) for all that a class can be given besides its defaults."""
    for setting, parameter in list(inspect.signature(getattr(diffusers, name).__init__).parameters.items())[1:]:
        if setting in OF_THE_NOISE_SCHEDULE | OF_ANOTHER_SETTING:
            continue
        values = choices(parameter.annotation) or VALUES.get(setting, ())
        if not values and isinstance(parameter.default, bool):
            values = (True, False)
        assert values, f"{name} has a setting {setting} of which no test knows a value"
        yield from ((setting, value) for value in values if value != parameter.default)


def exact_networks(name: str) -> mgp.ClassifierGuidedLatentPipeline:
    """The exact networks of the mixture, on the noise schedule of the shipped ones where the class takes it."""
    kinds = SUPPORTED[name].prediction_types
    if SUPPORTED[name].schedule != "preserving":
        return exact_pipeline(PLANE, name, kinds[0])
    noise = {"law": "preserving", "schedule": COSINE}
    kind = "v_prediction" if "v_prediction" in kinds else kinds[0]
    denoiser = MixtureDenoiser(**PLANE.parameters, **noise, prediction_type=kind).double()
    classifier = MixtureClassifier(**PLANE.parameters, **noise).double()
    scheduler = make_scheduler("DDPMScheduler", kind, COSINE)
    return mgp.ClassifierGuidedLatentPipeline(None, denoiser, classifier, scheduler)


def takes(name: str, setting: str) -> bool:
    """Whether a class has a setting."""
    return setting in inspect.signature(getattr(diffusers, name).__init__).parameters


@pytest.mark.parametrize(
    ("name", "flow"),
    [(name, {}) for name in SUPPORTED]
    + [(name, {"use_flow_sigmas": True}) for name in SUPPORTED if takes(name, "use_flow_sigmas")],
)
def test_every_setting_draws_or_is_refused_by_name(name, flow):
    """Ten steps reach the mean and the covariance to one standard deviation; rubbish is off by tens of them.

    Settings that are right alone may not be with noise levels on straight lines.
    """
    if name in ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"):
        pytest.importorskip("torchsde")
    pipe = exact_networks(name)
    for setting, value in settings_of(name):
        begun = []
        call = {"num_inference_steps": 10, "latents": even_noise(512, 2), "generator": seeds(0)[0]}
        call |= {"output_type": "latent", "callback_on_step_end": lambda *_, begun=begun: begun.append(1) or {}}
        try:
            pipe.scheduler = pipe.make_scheduler(name, **{**_SETTINGS.get(name, {}), **flow, setting: value})
            samples = pipe([1], 512, **call).images
        except ValueError as refusal:
            assert setting in str(refusal) and not begun, f"{name}, {setting}={value!r}: {refusal}"
        else:
            errors = moment_errors(samples.numpy(), *PLANE.moments(1))
            assert max(errors) < 1.0, f"{name}, {setting}={value!r}: errors {errors}"


@pytest.mark.parametrize("name", SUPPORTED)
def test_no_value_of_a_setting_ends_in_an_error_of_diffusers(name):
    if name in ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"):
        pytest.importorskip("torchsde")
    pipe, before = exact_networks(name), torch.get_rng_state()
    call = {"num_inference_steps": 4, "generator": seeds(0)[0], "output_type": "latent"}
    for setting in list(inspect.signature(getattr(diffusers, name).__init__).parameters)[1:]:
        for value in ("x", -1):
            try:
                pipe.scheduler = pipe.make_scheduler(name, **{**_SETTINGS.get(name, {}), setting: value})
                assert pipe([1], **call).images.isfinite().all()
            except ValueError as refusal:
                known = (setting, "noise schedule", "num_inference_steps", "overflowed")
                assert any(words in str(refusal) for words in known), f"{name}, {setting}={value!r}: {refusal}"
    assert torch.equal(torch.get_rng_state(), before)
