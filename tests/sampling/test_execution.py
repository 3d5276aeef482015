"""The same samples however the networks are run: compiled, offloaded, in inference mode, in half precision."""

import pytest
import torch
from accelerate import cpu_offload
from diffusers import DDIMScheduler, DDPMScheduler

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.sampling.denoiser import GuidedDenoiser
from mnist_guided_pipeline.sampling.guidance import classifier_score
from tiny import seeds, shaken

SCHEDULE = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}


@pytest.fixture
def pipe():
    torch.manual_seed(0)
    denoiser = mgp.ResidualMLPDenoiser([2, 7, 7], hidden_size=32, num_layers=2, condition_dim=16)
    classifier = mgp.ResidualMLPClassifier(
        [2, 7, 7], hidden_size=32, num_layers=2, condition_dim=16, noise_schedule=SCHEDULE
    )
    scheduler = DDPMScheduler(**SCHEDULE, prediction_type="v_prediction", clip_sample=False)
    pipe = mgp.ClassifierGuidedLatentPipeline(None, shaken(denoiser), shaken(classifier), scheduler)
    pipe.scheduler = pipe.make_scheduler(DDIMScheduler)
    return pipe


def draw(pipe, scale=2.0):
    arguments = {"guidance_scale": scale, "num_inference_steps": 5, "output_type": "latent"}
    return pipe([0, 3, 9], generator=seeds(0)[0], **arguments).images


def test_compiled_networks_trace_without_a_break(pipe):
    expected = draw(pipe)
    pipe.denoiser = torch.compile(pipe.denoiser, backend="eager", fullgraph=True)
    pipe.classifier = torch.compile(pipe.classifier, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(draw(pipe), expected, rtol=1e-4, atol=1e-5)


def test_offloaded_networks(pipe):
    """Sequential offload: weights are on the meta device except inside ``forward``; the gradient still comes."""
    expected = draw(pipe)
    for network in (pipe.denoiser, pipe.classifier):
        cpu_offload(network, execution_device=torch.device("cpu"))
        assert all(parameter.device.type == "meta" for parameter in network.parameters())
    torch.testing.assert_close(draw(pipe), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_step_waits_for_the_device(pipe):
    pipe.to("cuda")
    draw(pipe)
    torch.cuda.set_sync_debug_mode("error")
    try:
        sample, time = torch.randn(4, 2, 7, 7, device="cuda"), torch.tensor(500, device="cuda")
        guided = GuidedDenoiser(pipe.denoiser, pipe.classifier, pipe.scheduler, None)
        assert guided(sample, time).sample.shape == sample.shape
        score = classifier_score(pipe.classifier, sample, time, torch.arange(4, device="cuda"))
        assert score.shape == sample.shape
    finally:
        torch.cuda.set_sync_debug_mode("default")
