"""``GuidedDenoiser``: guided samples through pipelines that know nothing of guidance."""

import pytest
import torch
from diffusers import DDIMPipeline, DDPMPipeline, DDPMScheduler
from torch import nn

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.evaluation.oracle import LINEAR, PLANE, even_noise, exact_pipeline, moment_errors
from mnist_guided_pipeline.sampling.denoiser import GuidedDenoiser
from tiny import seeds, unet


class AsImages(nn.Module):
    """A denoiser or classifier of vectors (B, 2) as one of images (B, 2, 1, 1), which diffusers' pipelines draw."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.config = type("Config", (), {**network.config, "in_channels": 2, "sample_size": 1})()

    dtype = property(lambda self: torch.float64)
    device = property(lambda self: torch.device("cpu"))

    def forward(self, sample, timestep, return_dict=True):
        output = self.network(sample.flatten(1), timestep)
        if "sample" in output:
            output.sample = output.sample.reshape(sample.shape)
        return output if return_dict else output.to_tuple()


def by_hand(guided, scheduler, latents, steps):
    """The loop that any pipeline runs."""
    scheduler.set_timesteps(steps)
    latents = latents * scheduler.init_noise_sigma
    generator = {"generator": seeds(0)[0]} if "Ancestral" in type(scheduler).__name__ else {}
    for t in scheduler.timesteps:
        prediction = guided(scheduler.scale_model_input(latents, t), t).sample
        latents = scheduler.step(prediction, t, latents, **generator).prev_sample
    return latents


@pytest.mark.parametrize(("kind", "label"), [("epsilon", 0), ("sample", 1), ("v_prediction", 1)])
@pytest.mark.parametrize(("pipeline", "steps"), [(DDPMPipeline, 250), (DDIMPipeline, 100)])
def test_pipelines_of_diffusers_draw_the_exact_conditional(pipeline, steps, kind, label):
    exact = exact_pipeline(PLANE, "DDPMScheduler" if pipeline is DDPMPipeline else "DDIMScheduler", kind)
    unet, classifier, scheduler = AsImages(exact.denoiser), AsImages(exact.classifier), exact.scheduler
    guided = GuidedDenoiser(unet, classifier, scheduler, [label] * 2000)
    pipe = pipeline(unet=guided, scheduler=scheduler)
    kept, step = [], pipe.scheduler.step
    pipe.scheduler.step = lambda *args, **kwargs: kept.append(step(*args, **kwargs)) or kept[-1]
    pipe(batch_size=2000, num_inference_steps=steps, generator=seeds(0)[0], output_type="np")
    samples = kept[-1].prev_sample.flatten(1)
    mean_error, covariance_error = moment_errors(samples.numpy(), *PLANE.moments(label))
    assert mean_error < 0.08 and covariance_error < 0.12  # of 2,000 random samples


@pytest.mark.parametrize(
    "name", ["DPMSolverMultistep", "HeunDiscrete", "EulerAncestralDiscrete", "KDPM2AncestralDiscrete"]
)
def test_every_kind_of_scheduler_says_its_level_whoever_drives_it(name):
    """A loop by hand and our pipeline, guided at the same levels, give the same samples."""
    pipe = exact_pipeline(PLANE, "DDIMScheduler", "epsilon")
    pipe.scheduler = pipe.make_scheduler(f"{name}Scheduler")
    noise = even_noise(16, 2)
    call = {"latents": noise, "num_inference_steps": 10, "generator": seeds(0)[0], "output_type": "latent"}
    ours = pipe([1], 16, **call).images
    guided = GuidedDenoiser(pipe.denoiser, pipe.classifier, pipe.scheduler, [1] * 16)
    with torch.no_grad():
        found = by_hand(guided, pipe.scheduler, noise, 10)
    torch.testing.assert_close(found, ours)


def test_labels_and_scale_may_be_set_anew():
    pipe = exact_pipeline(PLANE, "DDIMScheduler", "epsilon")
    guided = GuidedDenoiser(pipe.denoiser, pipe.classifier, pipe.scheduler, [1] * 4)
    x, t = even_noise(4, 2), torch.tensor(500)
    first = guided(x, t).sample
    guided.class_labels = [0] * 4
    assert not torch.equal(guided(x, t).sample, first)
    guided.class_labels, guided.guidance_scale = [1] * 4, 0.0
    assert torch.equal(guided(x, t).sample, pipe.denoiser(x, t).sample)
    guided.guidance_scale = 1.0
    assert torch.equal(guided(x, t).sample, first)


def test_it_answers_as_the_wrapped_denoiser_does():
    network, classifier = unet(), mgp.MLPClassifier(sample_shape=(1, 8, 8), num_classes=3, hidden_size=8)
    guided = GuidedDenoiser(network, classifier, DDPMScheduler(**LINEAR, clip_sample=False), [2, 0])
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(400)
    output = guided(x, t)
    assert type(output) is type(network(x, t)) and not torch.equal(output.sample, network(x, t).sample)
    assert guided.config is network.config and guided.dtype == network.dtype and guided.device == network.device
    half = guided.to(torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half(x.to(torch.bfloat16), t, return_dict=False)[0].dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"class_labels": [0, 5]}, ValueError, "5 is not a class; the classes are 0 to 1"),
        ({"guidance_scale": [1.0, 2.0, 3.0]}, ValueError, "3,. for 2 labels"),
        ({"classifier": None}, ValueError, "there is no classifier"),
        ({"scheduler": DDPMScheduler(clip_sample=True)}, ValueError, "clip_sample=True"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_bad_argument_is_named(changes, error, words):
    pipe = exact_pipeline(PLANE, "DDIMScheduler", "epsilon")
    parts = {"denoiser": pipe.denoiser, "classifier": pipe.classifier, "scheduler": pipe.scheduler}
    with pytest.raises(error, match=words):
        GuidedDenoiser(**{**parts, "class_labels": [0, 1], **changes})
    guided = GuidedDenoiser(**parts, class_labels=[1] * 4)
    with pytest.raises(ValueError, match="class_labels are 4, but the batch has 3 samples"):
        guided(even_noise(4, 2)[:3], torch.tensor(500))


class ToldThePosterior(nn.Module):
    """The exact class-conditional denoiser, that takes class probabilities and nothing less."""

    needs_posterior = True

    def __init__(self, conditional):
        super().__init__()
        self.conditional, self.config = conditional, conditional.config

    dtype = property(lambda self: torch.float64)
    device = property(lambda self: torch.device("cpu"))

    def forward(self, sample, timestep, class_labels, return_dict=True):
        if class_labels.is_floating_point():
            every = [self.conditional(sample, timestep, torch.full((len(sample),), y)).sample for y in range(2)]
            output = self.conditional(sample, timestep)
            output.sample = torch.einsum("by,ybd->bd", class_labels.double(), torch.stack(every))
        else:
            output = self.conditional(sample, timestep, class_labels)
        return output if return_dict else output.to_tuple()


class TestPosterior:
    """The classifier's one pass a step is the denoiser's condition and the guide: the mixture identity, exactly."""

    @pytest.fixture
    def pipes(self):
        plain = exact_pipeline(PLANE, "DPMSolverMultistepScheduler", "v_prediction", conditional=True)
        told = exact_pipeline(PLANE, "DPMSolverMultistepScheduler", "v_prediction", conditional=True)
        told.register_modules(denoiser=ToldThePosterior(told.denoiser))
        return plain, told

    @pytest.mark.parametrize(
        "call",
        [
            {"class_labels": None, "num_images_per_label": 64},
            {"class_labels": [0, 1] * 32, "cfg_scale": 0.0, "guidance_scale": 0.0},
            {"class_labels": [0, 1] * 32, "cfg_scale": 0.0, "guidance_scale": 1.0},
            {"class_labels": [0, 1] * 32, "cfg_scale": 1.0, "guidance_scale": 0.0},
            {"class_labels": [0, 1] * 32, "cfg_scale": 2.0, "guidance_scale": 0.5, "guidance_interval": (0.1, 2.0)},
        ],
        ids=["unconditional", "unguided", "the classifier alone", "told", "all of it"],
    )
    def test_it_draws_what_a_null_class_draws_where_that_is_exact(self, pipes, call):
        plain, told = (
            pipe(**call, num_inference_steps=12, latents=even_noise(64, 2), output_type="latent").images
            for pipe in pipes
        )
        torch.testing.assert_close(told, plain, rtol=1e-5, atol=1e-6)

    def test_not_this_class_is_told_as_the_other(self, pipes):
        told, latents = pipes[1], even_noise(64, 2)
        call = {"num_inference_steps": 12, "latents": latents, "output_type": "latent", "guidance_scale": 0.0}
        excluded = told(None, 64, negative_class_labels=[0], cfg_scale=1.0, **call).images
        torch.testing.assert_close(excluded, told([1] * 64, cfg_scale=1.0, **call).images, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize(
        ("call", "calls"),
        [({"cfg_scale": 0.0}, 6), ({"cfg_scale": 2.0}, 6), ({"cfg_scale": 1.0, "guidance_scale": 0.0}, 0)],
    )
    def test_the_classifier_is_read_once_a_step(self, pipes, call, calls):
        seen = []
        pipes[1].classifier.register_forward_hook(lambda *_: seen.append(1))
        pipes[1]([0, 1], num_inference_steps=6, output_type="latent", **call)
        assert len(seen) == calls

    def test_without_a_classifier_it_says_so(self, pipes):
        exact = pipes[1]
        for labels, cfg_scale in ((None, 1.0), ([0, 1], 0.0), ([0, 1], 2.0)):
            with pytest.raises(ValueError, match="ToldThePosterior is told the classifier's posterior.*no classifier"):
                GuidedDenoiser(exact.denoiser, None, exact.scheduler, labels, 0.0, cfg_scale=cfg_scale)
        GuidedDenoiser(exact.denoiser, None, exact.scheduler, [0, 1], 0.0)

    def test_a_network_told_one_class_for_sure_is_told_the_class(self):
        torch.manual_seed(0)
        network = mgp.PosteriorResidualMLPDenoiser(sample_shape=(4,), hidden_size=16, num_layers=1, num_classes=3)
        nn.init.normal_(network.output.weight)
        sample, labels = torch.randn(3, 4), torch.arange(3)
        told = network(sample, torch.tensor(5), labels).sample
        torch.testing.assert_close(network(sample, torch.tensor(5), torch.eye(3)).sample, told)
        assert (network(sample, torch.tensor(5), torch.full((3, 3), 1 / 3)).sample - told).abs().max() > 1e-3


def test_components_are_found_without_labels():
    """A network that sorts samples by itself is a plain unconditional denoiser, and its gate is trained by its loss."""
    network = mgp.GatedResidualMLPDenoiser(
        (4,), hidden_size=16, num_layers=1, condition_dim=8, num_components=3, gate_size=8
    )
    nn.init.normal_(network.denoiser.output.weight)
    nn.init.normal_(network.denoiser.trunk.blocks[0].modulation.weight)
    network(torch.randn(6, 4), torch.arange(6)).sample.square().sum().backward()
    assert network.gate.output.weight.grad.abs().max() > 0
    pipe = mgp.ClassifierGuidedLatentPipeline(None, network, None, DDPMScheduler(clip_sample=False))
    assert not pipe.denoiser_is_conditional
    assert pipe(None, 2, num_inference_steps=2, output_type="latent").images.shape == (2, 4)
    with pytest.raises(ValueError, match="this denoiser has no classes"):
        network(torch.randn(1, 4), torch.tensor(3), torch.tensor([1]))
    with pytest.raises(ValueError, match=r"sample must be \(B, \*\(4,\)\), got \(1, 2, 2\)"):
        network(torch.randn(1, 2, 2), torch.tensor(3))
