"""Guided sampling against the exact p(x | y): with exact networks, every error is the guidance's or the solver's."""

import numpy as np
import pytest
import torch

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.evaluation.metrics import sliced_wasserstein
from mnist_guided_pipeline.evaluation.oracle import (
    HIGHER,
    LINEAR,
    PLANE,
    even_noise,
    exact_pipeline,
    make_scheduler,
    moment_errors,
)
from mnist_guided_pipeline.sampling.schedulers import SUPPORTED

COUNT = 4096
DISTILLED = ("LCMScheduler", "FlowMatchLCMScheduler")  # right mean, too little spread, by their design
TORCHSDE = ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler")

VARIANTS = [
    *((name, kind, {}) for name, support in SUPPORTED.items() for kind in support.prediction_types if kind[0] != "f"),
    *((name, "flow_prediction", {}) for name, support in SUPPORTED.items() if support.schedule == "flow"),
    *(
        (name, "flow_prediction", {"use_flow_sigmas": True})
        for name, support in SUPPORTED.items()
        if "flow_prediction" in support.prediction_types and support.schedule != "flow"
    ),
    ("DPMSolverMultistepScheduler", "epsilon", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", "epsilon", {"use_lu_lambdas": True}),
    ("DPMSolverMultistepScheduler", "epsilon", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistepScheduler", "v_prediction", {"solver_order": 3}),
    ("EulerDiscreteScheduler", "v_prediction", {"use_karras_sigmas": True}),
    ("HeunDiscreteScheduler", "epsilon", {"use_karras_sigmas": True}),
    ("EDMDPMSolverMultistepScheduler", "epsilon", {"algorithm_type": "sde-dpmsolver++"}),
]


def name_of(variant):
    name, kind, options = variant
    return "-".join([name.removesuffix("Scheduler"), kind, *(str(value) for value in options.values())])


def draw(pipe, mixture, steps, scale=1.0, seed=0, count=COUNT, **arguments):
    noise = even_noise(count, mixture.dim, seed)
    generator = torch.Generator().manual_seed(seed)
    arguments = {"guidance_scale": scale, "num_inference_steps": steps, "latents": noise, **arguments}
    return pipe([1], count, output_type="latent", generator=generator, **arguments).images.numpy()


@pytest.fixture(scope="module")
def floor():
    """Sliced Wasserstein distance between two exact samples: no sampler can be expected to beat it."""

    def distance(mixture, seed):
        return sliced_wasserstein(mixture.draw(1, COUNT, seed), mixture.draw(1, COUNT, seed + 100))

    return {mixture: np.mean([distance(mixture, seed) for seed in range(5)]) for mixture in (PLANE, HIGHER)}


@pytest.mark.parametrize("variant", VARIANTS, ids=name_of)
def test_scale_one_reproduces_the_exact_conditional(variant, floor):
    name, kind, options = variant
    stochastic = SUPPORTED[name].stochastic == "yes" or "sde" in str(options)
    if name in TORCHSDE:
        pytest.importorskip("torchsde")
    if name == "LMSDiscreteScheduler":
        pytest.importorskip("scipy")
    pipe = exact_pipeline(PLANE, name, kind, **options)
    samples = draw(pipe, PLANE, 300 if stochastic and name not in (*TORCHSDE, *DISTILLED) else 120)
    mean_error, covariance_error = moment_errors(samples, *PLANE.moments(1))
    if name in DISTILLED:
        assert mean_error < 0.15
        return
    distance = sliced_wasserstein(samples, PLANE.draw(1, COUNT, 7))
    assert mean_error < 0.05 and covariance_error < 0.05
    assert distance < (1.7 if stochastic else 1.3) * floor[PLANE]  # a draw has noise that even noise has not


@pytest.mark.parametrize(
    "name, kind",
    [
        ("DDIMScheduler", "v_prediction"),
        ("DPMSolverMultistepScheduler", "epsilon"),
        ("EulerDiscreteScheduler", "sample"),
        ("HeunDiscreteScheduler", "epsilon"),
        ("EDMEulerScheduler", "epsilon"),
        ("FlowMatchEulerDiscreteScheduler", "flow_prediction"),
    ],
)
def test_sixteen_dimensions(name, kind, floor):
    samples = draw(exact_pipeline(HIGHER, name, kind), HIGHER, 100)
    assert max(moment_errors(samples, *HIGHER.moments(1))) < 0.05
    assert sliced_wasserstein(samples, HIGHER.draw(1, COUNT, 7)) < 1.3 * floor[HIGHER]


@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_preserving_network_under_a_flow_scheduler(name, kind):
    pipe = exact_pipeline(PLANE, "DDIMScheduler", kind)
    pipe.scheduler = make_scheduler(name, "flow_prediction", LINEAR)
    assert max(moment_errors(draw(pipe, PLANE, 100), *PLANE.moments(1))) < 0.05


def test_solvers_agree_at_a_large_scale():
    """For s other than 1 there is no simple target, but all solvers of one ODE must meet at fine steps."""
    first = draw(exact_pipeline(PLANE, "DDIMScheduler", "epsilon"), PLANE, 500, scale=3.0, count=256)
    second = draw(exact_pipeline(PLANE, "HeunDiscreteScheduler", "epsilon"), PLANE, 250, scale=3.0, count=256)
    assert np.abs(first - second).mean() < 0.02


def test_excluded_and_soft_labels_are_exact():
    """Not class 0 is class 1, where there are two; weights w_y draw from the mixture of p(x | y) by w_y p(y)."""
    pipe = exact_pipeline(PLANE, "DPMSolverMultistepScheduler", "epsilon")
    wanted = draw(pipe, PLANE, 50)
    noise = even_noise(COUNT, 2)
    arguments = {"num_inference_steps": 50, "latents": noise, "output_type": "latent", "guidance_scale": 1.0}
    excluded = pipe(None, COUNT, negative_class_labels=[0], **arguments).images.numpy()
    np.testing.assert_allclose(excluded, wanted, atol=1e-6)
    either = pipe(torch.tensor([[0.5, 0.5]]), COUNT, **arguments).images.numpy()
    assert max(moment_errors(either, *PLANE.moments(None))) < 0.05


def test_the_classifier_alone_guides_also_outside_the_interval():
    """With cfg_scale=0 a conditional denoiser is the unconditional one at every step, whatever the labels."""
    arguments = {"guidance_interval": (0.1, 2.0), "num_inference_steps": 20}
    unconditional = draw(exact_pipeline(PLANE, "DDIMScheduler", "epsilon"), PLANE, 20, **arguments)
    conditional = exact_pipeline(PLANE, "DDIMScheduler", "epsilon", conditional=True)
    np.testing.assert_allclose(draw(conditional, PLANE, 20, cfg_scale=0.0, **arguments), unconditional, atol=1e-8)
    either = conditional(torch.tensor([[0.5, 0.5]]), 8, cfg_scale=0.0, output_type="latent", **arguments).images
    assert torch.isfinite(either).all()


def test_autoguidance_is_exact_for_gaussians():
    """For data N(0, v) the optimal eps is sigma x / (alpha^2 v + sigma^2); the strong network knows v, the weak not."""
    strong, weak = (
        {"weights": [1.0], "means": [[0.0, 0.0]], "covariances": [(v * np.eye(2)).tolist()], "classes": [0]}
        for v in (0.5, 2.0)
    )
    pipe = exact_pipeline(PLANE, "DDIMScheduler", "epsilon")
    networks = [mgp.MixtureDenoiser(**data, schedule=LINEAR).double() for data in (strong, weak)]
    pipe.register_modules(denoiser=networks[0], weak_denoiser=networks[1])
    seen = [even_noise(64, 2)]
    errors = []

    def compare(pipe, step, timestep, tensors):
        abar = pipe.scheduler.alphas_cumprod[timestep].double()
        first, second = ((1 - abar).sqrt() * seen[-1] / (abar * v + 1 - abar) for v in (0.5, 2.0))
        errors.append((tensors["prediction"] - (second + 2.5 * (first - second))).abs().max().item())
        seen.append(tensors["latents"])
        return {}

    watched = {"callback_on_step_end": compare, "callback_on_step_end_tensor_inputs": ["latents", "prediction"]}
    call = {"latents": seen[0], "num_inference_steps": 20, "output_type": "latent", **watched}
    pipe(None, 64, autoguidance_scale=2.5, **call)
    assert len(errors) == 20
    assert max(errors) < 1e-6


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_zero_terminal_snr(kind):
    """A law that ends in pure noise (Lin et al. 2023): the rule divides by alpha = 0 nowhere."""
    noise = {**LINEAR, "rescale_betas_zero_snr": True}
    scheduler = make_scheduler("DDIMScheduler", kind, noise)
    denoiser = mgp.MixtureDenoiser(**PLANE.parameters, schedule=noise, prediction_type=kind).double()
    classifier = mgp.MixtureClassifier(**PLANE.parameters, schedule=noise).double()
    pipe = mgp.ClassifierGuidedLatentPipeline(None, denoiser, classifier, scheduler)
    assert max(moment_errors(draw(pipe, PLANE, 120), *PLANE.moments(1))) < 0.05
