"""``CleanClassifierGuide``: classifiers of clean images as guides, and how far from Bayes' rule they lead."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, EDMEulerScheduler
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.evaluation.oracle import PLANE, even_noise, exact_pipeline, moment_errors
from mnist_guided_pipeline.sampling.guidance import classifier_score
from tiny import seeds, unet

RESNET = {"embedding_size": 4, "hidden_sizes": [4], "depths": [1], "num_labels": 3}
VIT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "num_labels": 3}


class CleanMixture(nn.Module):
    """The exact p(y | x0) of a mixture: its noise-aware classifier where there is (almost) no noise."""

    config = SimpleNamespace(num_labels=2)

    def __init__(self, classifier):
        super().__init__()
        self.classifier = classifier

    def forward(self, sample):
        return self.classifier(sample, torch.tensor(0.0))


def clean(pipe):
    return mgp.CleanClassifierGuide(CleanMixture(pipe.classifier), pipe.denoiser, None, pipe.scheduler)


def image_classifier(kind, channels):
    torch.manual_seed(0)  # of some draws no unit fires, and the gradient is zero
    if kind == "vit":
        return ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, num_channels=channels, **VIT)).eval()
    return ResNetForImageClassification(ResNetConfig(num_channels=channels, **RESNET)).eval()


def as_told(pipe, guide, label):
    """Errors of the mean and covariance of guided samples of the plane."""
    pipe.register_modules(classifier=guide)
    call = {"guidance_scale": 1.0, "num_inference_steps": 50, "output_type": "latent"}
    samples = pipe([label], 1024, latents=even_noise(1024, 2), **call).images
    return moment_errors(samples.numpy(), *PLANE.moments(label))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("DDIMScheduler", "v_prediction"),
        ("DDIMScheduler", "epsilon"),
        ("FlowMatchEulerDiscreteScheduler", "flow_prediction"),
    ],
)
def test_its_gradient_is_the_exact_one_where_little_noise_is_left_and_only_there(name, kind):
    pipe = exact_pipeline(PLANE, name, kind)
    x0, noise, labels = torch.from_numpy(PLANE.draw(None, 500, 0)), even_noise(500, 2), torch.ones(500).long()
    errors = []
    for time in (1, 300):
        if name.startswith("Flow"):
            alpha, sigma = 1 - time / 1000, time / 1000
        else:
            alpha = pipe.scheduler.alphas_cumprod[time].double().sqrt()
            sigma = (1 - alpha**2).sqrt()
        noisy = alpha * x0 + sigma * noise
        guides = pipe.classifier, clean(pipe)
        exact, ours = (classifier_score(guide, noisy, torch.tensor(time), labels) for guide in guides)
        errors.append(float((ours - exact).norm() / exact.norm()))
    assert errors[0] < 0.02 and errors[1] > 1.0


@pytest.mark.parametrize(("label", "mean_error"), [(0, 0.24), (1, 1.29)])
def test_its_bias_is_known(label, mean_error):
    """The mean of p(x | y) is missed by this many standard deviations at 50 steps, and more steps do not help."""
    pipe = exact_pipeline(PLANE, "DDIMScheduler", "v_prediction")
    exact, guide = pipe.classifier, clean(pipe)
    assert as_told(pipe, exact, label)[0] < 0.02
    assert as_told(pipe, guide, label)[0] == pytest.approx(mean_error, abs=0.05)


@pytest.mark.parametrize(("kind", "reads"), [("vit", 3), ("vit", 1), ("resnet", 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_it_guides_by_any_image_classifier(kind, reads, channels):
    scheduler, denoiser = DDIMScheduler(clip_sample=False), unet(channels)
    guide = mgp.CleanClassifierGuide(image_classifier(kind, reads), denoiser, None, scheduler)
    pipe = mgp.ClassifierGuidedLatentPipeline(None, denoiser, guide, scheduler)
    start = torch.randn(3, channels, 8, 8, generator=seeds(0)[0])
    call = {"latents": start, "num_inference_steps": 2, "output_type": "latent"}
    guided, plain = (pipe([0, 1, 2], guidance_scale=scale, **call).images for scale in (20.0, 0.0))
    assert guided.isfinite().all() and (guided - plain).abs().amax(dim=(1, 2, 3)).min() > 0


def test_the_gradient_goes_through_classifier_decoder_and_denoiser():
    coder = {"down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",)}
    vae = AutoencoderKL(1, 1, block_out_channels=(8,), norm_num_groups=4, latent_channels=1, **coder).eval()
    denoiser, classifier = unet().double(), image_classifier("vit", 3).double()
    guide = mgp.CleanClassifierGuide(classifier, denoiser, vae.double(), DDIMScheduler(), (0.4, 0.5, 0.6), 0.25)
    sample, time = torch.randn(1, 1, 8, 8, dtype=torch.float64), torch.tensor(400.5)
    direction = torch.randn_like(sample)
    score = classifier_score(guide, sample, time, torch.tensor([2]))
    with torch.no_grad():
        ahead, behind = (
            guide(sample + step * direction, time).logits.log_softmax(dim=-1)[0, 2] for step in (1e-5, -1e-5)
        )
    torch.testing.assert_close((score * direction).sum(), (ahead - behind) / 2e-5, rtol=1e-4, atol=1e-9)


def test_what_does_not_fit_is_refused(tmp_path):
    classifier, scheduler = image_classifier("resnet", 1), DDIMScheduler()
    with pytest.raises(ValueError, match="classifier is a Linear, whose config has no num_labels"):
        mgp.CleanClassifierGuide(nn.Linear(2, 2), unet(), None, scheduler)
    with pytest.raises(ValueError, match="UNet2DModel that cannot predict without a label"):
        mgp.CleanClassifierGuide(classifier, unet(num_class_embeds=3), None, scheduler)
    with pytest.raises(ValueError, match="EDMEulerScheduler with the noise schedule 'edm'"):
        mgp.CleanClassifierGuide(classifier, unet(), None, EDMEulerScheduler())
    guide = mgp.CleanClassifierGuide(classifier, unet(), None, scheduler)
    pipe = mgp.ClassifierGuidedLatentPipeline(None, unet(), guide, scheduler)
    with pytest.raises(
        TypeError, match="classifier is a CleanClassifierGuide, which cannot be saved; register_modules"
    ):
        pipe.save_pretrained(tmp_path / "pipeline")
    assert not (tmp_path / "pipeline").exists()
