"""Noise levels: what every scheduler does to the data, read back from its own steps."""

import inspect
import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from diffusers import DDIMScheduler, IPNDMScheduler

import tiny
from mnist_guided_pipeline.evaluation.oracle import _SETTINGS, COSINE, LINEAR, make_scheduler
from mnist_guided_pipeline.sampling.noise import (
    PREDICTION_TYPES,
    NoiseLevel,
    add_noise,
    noise_level,
    predicted_epsilon,
    predicted_x0,
    prediction_target,
    preserving_equivalent,
    preserving_levels,
)
from mnist_guided_pipeline.sampling.schedulers import SUPPORTED, scheduler_family

LEVELS = [(0.6, 0.8), (0.05, math.sqrt(1 - 0.05**2)), (0.3, 0.7), (0.2, 1.4)]


noise = partial(tiny.noise, dtype=torch.float64)


class TestPredictions:
    @pytest.mark.parametrize("kind", PREDICTION_TYPES)
    @pytest.mark.parametrize("level", [*LEVELS, (noise(5, 1).abs() + 0.1, noise(5, 1, seed=1).abs() + 0.1)])
    def test_give_back_what_they_were_made_of(self, kind, level):
        x0, eps, level = noise(5, 3), noise(5, 3, seed=1), NoiseLevel(*level)
        sample, target = add_noise(x0, eps, level), prediction_target(x0, eps, level, kind)
        torch.testing.assert_close(predicted_x0(target, sample, level, kind), x0)
        torch.testing.assert_close(predicted_epsilon(target, sample, level, kind), eps)

    def test_an_unknown_type_is_refused(self):
        x, level = noise(1, 2), NoiseLevel(0.6, 0.8)
        for function in (prediction_target, predicted_x0, predicted_epsilon):
            with pytest.raises(ValueError, match="prediction_type must be one of epsilon, .* got 'score'"):
                function(x, x, level, "score")


ROWS = SUPPORTED.items()
FLOWS = [name for name, row in ROWS if "flow_prediction" in row.prediction_types and row.schedule != "flow"]
KARRAS = ["DPMSolverMultistep", "DPMSolverSinglestep", "DEISMultistep", "UniPCMultistep", "SASolver", "EulerDiscrete"]
KARRAS += ["HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete", "DPMSolverSDE"]
CASES = [
    *((name, {}) for name in SUPPORTED if name != "IPNDMScheduler"),
    *((name, {"use_flow_sigmas": True}) for name in FLOWS),
    *((f"{name}Scheduler", {"use_karras_sigmas": True}) for name in KARRAS),
    ("DDIMScheduler", {"rescale_betas_zero_snr": True}),
    ("EulerDiscreteScheduler", {"rescale_betas_zero_snr": True}),
    ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
]


def case_name(case) -> str:
    return "-".join([case[0].removesuffix("Scheduler"), *case[1]])


def noised(scheduler, x0, eps):
    """Where the loop starts: the scheduler's own noising at its first step."""
    if scheduler_family(scheduler) == "flow":  # SASolver's add_noise does not know of flow sigmas
        return (1 - scheduler.sigmas[0]) * x0 + scheduler.sigmas[0] * eps
    return scheduler.add_noise(x0, eps, scheduler.timesteps[:1])


def network_output(scheduler, x0, sample, level, kind):
    """What a network that knows x0 says."""
    if scheduler_family(scheduler) == "edm":
        sigma, data, latents = level.ratio, scheduler.config.sigma_data, sample / level.alpha
        norm = math.hypot(sigma, data)
        return (x0 - data**2 / norm**2 * latents) * norm / (sigma * data)  # Karras et al. 2022, table 1
    return prediction_target(x0, (sample - level.alpha * x0) / level.sigma, level, kind)


@pytest.mark.parametrize("case", CASES, ids=case_name)
def test_level_is_what_the_scheduler_does_at_every_step(case):
    """Two loops with the same noise whose networks know x0: they must differ by alpha times the difference of x0."""
    name, options = case
    settings = {**_SETTINGS.get(name, {}), "noise_sampler_seed": 0, **options}
    kinds = SUPPORTED[name].prediction_types
    kind = "flow_prediction" if options.get("use_flow_sigmas") else "sample" if "sample" in kinds else kinds[0]
    if name in ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"):
        pytest.importorskip("torchsde")
    targets, samples, levels = [torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 1.0]])], [], []
    for x0 in targets:
        scheduler = make_scheduler(name, kind, COSINE if name == "UnCLIPScheduler" else LINEAR, **settings)
        scheduler.set_timesteps(10)  # divides 1000: DDIM rounds its previous timestep otherwise
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        parameters = inspect.signature(scheduler.step).parameters
        extra = {"generator": torch.Generator().manual_seed(0)} if "generator" in parameters else {}
        latents, seen, levels = noised(scheduler, x0, noise(1, 2).float()), [], []
        times = scheduler.timesteps
        for i, t in enumerate(times):
            levels.append(noise_level(scheduler, i, t))
            seen.append(scheduler.scale_model_input(latents, t) if hasattr(scheduler, "scale_model_input") else latents)
            if "prev_timestep" in parameters:
                extra["prev_timestep"] = times[i + 1] if i + 1 < len(times) else None
            latents = scheduler.step(network_output(scheduler, x0, seen[-1], levels[-1], kind), t, latents, **extra)[0]
        samples.append(torch.cat(seen))

    alphas = torch.tensor([level.alpha for level in levels])
    torch.testing.assert_close(samples[1] - samples[0], alphas[:, None] * (targets[1] - targets[0]), rtol=0, atol=3e-4)
    family = scheduler_family(scheduler)
    for alpha, sigma in levels:
        if family == "flow":
            assert alpha + sigma == pytest.approx(1)
        else:
            data = scheduler.config.sigma_data if family == "edm" else 1.0
            assert sigma**2 + (data * alpha) ** 2 == pytest.approx(1, abs=1e-6)
    assert all(later.ratio <= earlier.ratio * (1 + 1e-6) for earlier, later in pairwise(levels))


def test_level_of_ipndm_is_its_angle():
    """Its first step starts from a signal of nothing, so a sample cannot tell; its timesteps do."""
    scheduler = IPNDMScheduler()
    scheduler.set_timesteps(10)
    for i, t in enumerate(scheduler.timesteps.tolist()):
        angle = (math.cos(t * math.pi / 2), math.sin(t * math.pi / 2))
        assert tuple(noise_level(scheduler, i, t)) == pytest.approx(angle, abs=1e-6)


class TestPreservingEquivalent:
    table = preserving_levels(DDIMScheduler(**LINEAR).alphas_cumprod)

    @staticmethod
    def flow_level(ratio: float) -> NoiseLevel:
        return NoiseLevel(1 / (1 + ratio), ratio / (1 + ratio))

    @pytest.mark.parametrize("t", [0.0, 1.0, 17.5, 250.25, 998.9, 999.0])
    def test_ratio_and_fractional_timestep(self, t):
        low = min(int(t), 998)
        logs = (self.table.sigma / self.table.alpha).log()
        ratio = math.exp(float(logs[low] + (t - low) * (logs[low + 1] - logs[low])))
        level = self.flow_level(ratio)
        divisor, timestep, equivalent = preserving_equivalent(level, self.table)
        assert timestep == pytest.approx(t, abs=1e-6)
        assert equivalent.ratio == pytest.approx(ratio)
        assert math.hypot(*equivalent) == pytest.approx(1)
        assert (level.alpha / divisor, level.sigma / divisor) == pytest.approx(tuple(equivalent))

    def test_pure_noise_becomes_the_noisiest_level_there_is(self):
        _, timestep, equivalent = preserving_equivalent(NoiseLevel(0.0, 1.0), self.table)
        assert timestep == 999
        assert equivalent.ratio == pytest.approx(float(self.table.sigma[-1] / self.table.alpha[-1]))
        steep = preserving_levels(DDIMScheduler(**COSINE).alphas_cumprod)
        _, timestep, equivalent = preserving_equivalent(NoiseLevel(0.0, 1.0), steep)
        assert 990 < timestep < 999 and equivalent.ratio == pytest.approx(200)
