"""Laws of every network: shapes, timesteps, labels, independence of the batch, gradients, and saving."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from torch import nn

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.models.dit import patchify, unpatchify
from tiny import noise, shaken

RESIDUAL = {"hidden_size": 16, "num_layers": 2, "condition_dim": 8}
OF_VECTORS = {
    "MLPDenoiser": {"hidden_size": 16},
    "ResidualMLPDenoiser": {**RESIDUAL, "activation_fn": "swiglu"},
    "PointDenoiser": {"hidden_size": 16},
}
OF_IMAGES = {
    "FiLMConvDenoiser": {"patch_size": 1, "channels": 8, "num_layers": 2, "condition_dim": 8},
    "UNetDenoiser": {"patch_size": 1, "block_channels": [8, 16], "condition_dim": 8, "attention": True},
    "DiTDenoiser": {"patch_size": 7, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "condition_dim": 8},
}
DENOISERS = {**OF_VECTORS, **OF_IMAGES}
CONV_CLASSIFIER = {"ConvClassifier": {"patch_size": 1, "block_channels": [8, 16], "condition_dim": 8}}
CLASSIFIERS = {"MLPClassifier": {"hidden_size": 16}, "ResidualMLPClassifier": RESIDUAL, **CONV_CLASSIFIER}
PATCHED = [*OF_IMAGES, *CONV_CLASSIFIER]
NETWORKS = {**DENOISERS, **CLASSIFIERS}
NOISE_SCHEDULE = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 1000}
LATENT = (2, 7, 7)


def make(name: str, **arguments) -> nn.Module:
    torch.manual_seed(0)
    return shaken(getattr(mgp, name)(**{"sample_shape": LATENT, **NETWORKS[name], **arguments}))


def out(network: nn.Module, *inputs) -> torch.Tensor:
    return network(*inputs, return_dict=False)[0]


def test_every_trained_network_is_here():
    names = {name for name in mgp.__all__ if name.endswith(("Denoiser", "Classifier"))}
    own_tests = {
        "GuidedDenoiser",
        "PosteriorResidualMLPDenoiser",
        "GatedResidualMLPDenoiser",
        "MixtureDenoiser",
        "MixtureClassifier",
    }
    assert names - own_tests == NETWORKS.keys()


@pytest.mark.parametrize("name", NETWORKS)
class TestNetwork:
    def test_shapes(self, name):
        shapes = [(2,), (5,), LATENT, (1, 28, 28)] if name not in PATCHED else [LATENT, (1, 14, 28), (1, 28, 28)]
        for shape in shapes:
            network, x = make(name, sample_shape=shape, num_classes=3), noise(4, *shape)
            output, as_tuple = network(x, torch.tensor(7)), out(network, x, torch.tensor(7))
            assert torch.equal(output.sample if name in DENOISERS else output.logits, as_tuple)
            assert as_tuple.shape == ((4, *shape) if name in DENOISERS else (4, 3))

    def test_every_form_of_a_timestep_is_the_same(self, name):
        network, x = make(name), noise(4, *LATENT)
        whole = [torch.tensor(7), torch.tensor([7]), torch.full((4,), 7), torch.full((4,), 7, dtype=torch.int32), 7]
        forms = [*whole, torch.tensor(7.0), torch.full((4,), 7.0, dtype=torch.float64), 7.0]
        for form in forms:
            assert torch.allclose(out(network, x, form), out(network, x, 7), atol=1e-5)

    def test_the_timestep_matters_also_between_whole_ones(self, name):
        network, x = make(name), noise(1, *LATENT)
        outputs = [out(network, x, torch.tensor(t)) for t in (10.0, 10.5, 900.0)]
        assert not torch.allclose(outputs[0], outputs[1], atol=1e-6)
        assert not torch.allclose(outputs[0], outputs[2], atol=1e-3)

    def test_a_sample_does_not_depend_on_its_batch(self, name):
        network, x, t = make(name), noise(5, *LATENT), torch.tensor([3, 50, 400, 800, 999])
        network.train()  # nor in training: statistics of a batch would change the gradient of every guide
        parts = [out(network, x[i : i + 1], t[i : i + 1]) for i in range(5)]
        assert torch.allclose(out(network, x, t), torch.cat(parts), atol=1e-5)

    def test_every_parameter_has_a_gradient(self, name):
        network = make(name)
        out(network, noise(4, *LATENT), torch.tensor([1, 5, 50, 500])).square().sum().backward()
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, parameter_name

    def test_gradient_with_respect_to_the_sample_is_right(self, name):
        shape = (1, 3, 3) if name in PATCHED else (3,)
        patch = {"patch_size": 3 if name == "DiTDenoiser" else 1} if name in PATCHED else {}
        network = make(name, sample_shape=shape, **patch).double()
        x = noise(1, *shape).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda sample: out(network, sample, torch.tensor([600])), x)
        if name in CLASSIFIERS:  # whose gradient is trained, so it must be smooth itself
            assert torch.autograd.gradgradcheck(lambda sample: out(network, sample, torch.tensor([600])), x)

    def test_a_setting_of_earlier_versions_is_left_out(self, name):
        network = type(make(name)).from_config({**make(name).config, "dropout": 0.0})
        assert "dropout" not in network.config

    def test_half_precision(self, name):
        output = out(make(name).to(torch.bfloat16), noise(4, *LATENT).to(torch.bfloat16), torch.tensor(999))
        assert output.dtype == torch.bfloat16 and torch.isfinite(output).all()


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_sizes_of_numpy_and_torch_are_saved_as_those_of_python(kind, tmp_path):
    network = mgp.MLPDenoiser(sample_shape=kind([4]), hidden_size=kind(8), num_classes=kind(10))
    network.save_pretrained(tmp_path)
    config = mgp.MLPDenoiser.from_pretrained(tmp_path).config
    assert (config.sample_shape, config.hidden_size, config.num_classes) == ([4], 8, 10)


@pytest.mark.parametrize("name", PATCHED)
class TestShapesOfImages:
    @pytest.mark.parametrize(("shape", "patch_size"), [((1, 28, 28), 3), ((16,), 1), ((1, 28, 21), 2)])
    def test_shapes_that_do_not_fit_are_refused(self, name, shape, patch_size):
        with pytest.raises(ValueError, match=f"does not fit patch_size {patch_size}"):
            make(name, sample_shape=shape, patch_size=patch_size)

    def test_samples_of_another_shape_are_refused(self, name):
        for shape in [(2, 8, 8), (1, 7, 7), (98,)]:
            with pytest.raises(ValueError, match=r"sample must be \(B, \*\(2, 7, 7\)\), got \(3"):
                make(name)(noise(3, *shape), 7)


@pytest.mark.parametrize("name", DENOISERS)
def test_labels_change_the_prediction_and_none_is_the_null_class(name):
    network, x = make(name, num_classes=3), noise(1, *LATENT).expand(4, *LATENT)
    outputs = network(x, 7, torch.tensor([0, 1, 2, 3])).sample
    assert torch.pdist(outputs.flatten(1)).min() > 1e-3
    assert torch.allclose(network(x, 7).sample, outputs[3], atol=1e-5)
    with pytest.raises(ValueError, match="class_labels were given, but this denoiser has no classes"):
        make(name)(x, 7, torch.arange(4))


@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_denoiser_of_images_starts_at_zero(name):
    network = getattr(mgp, name)(sample_shape=LATENT, **DENOISERS[name])
    assert not network(noise(2, *LATENT), 7).sample.any()


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("FiLMConvDenoiser", {"channels": 12}, "channels must be a multiple of 8, got 12"),
        ("UNetDenoiser", {"block_channels": [8, 20]}, r"block_channels must be multiples of 8, got \(8, 20\)"),
        ("UNetDenoiser", {"block_channels": []}, r"block_channels must be multiples of 8, got \(\)"),
        ("DiTDenoiser", {"hidden_size": 18}, r"multiple of 4 and of num_heads \(2\), got 18"),
        ("DiTDenoiser", {"num_heads": 3}, r"multiple of 4 and of num_heads \(3\), got 16"),
        ("ConvClassifier", {"block_channels": []}, r"block_channels must be positive numbers, one per level, got \(\)"),
    ],
)
def test_widths_that_do_not_fit_are_refused(name, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(name, **arguments)


def test_a_transformer_knows_places_by_their_embedding_alone():
    """Without it, patches in another order give the same predictions in that order."""
    network, x = make("DiTDenoiser", sample_shape=(1, 28, 28)), noise(2, 1, 28, 28)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    wide = noise(2, 3, 6, 9)
    assert torch.equal(unpatchify(patchify(wide, 3), 3, rows=2), wide)
    shuffled = unpatchify(patchify(x, 7)[:, order], 7, rows=4)
    expected = lambda: unpatchify(patchify(network(x, 7).sample, 7)[:, order], 7, rows=4)  # noqa: E731
    assert not torch.allclose(network(shuffled, 7).sample, expected(), atol=1e-2)
    network.position.table.zero_()
    assert torch.allclose(network(shuffled, 7).sample, expected(), atol=1e-4)
    table = make("DiTDenoiser", sample_shape=(1, 28, 28), patch_size=1).position.table
    assert table.shape == (784, 16) and torch.pdist(table).min() > 1e-2


class TestGate:
    def test_reads_alpha_times_the_sample(self):
        gated = make("ConvClassifier", noise_schedule=NOISE_SCHEDULE)
        plain = make("ConvClassifier")
        alpha = DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod.sqrt()
        x, t = noise(4, *LATENT), torch.tensor([0, 300, 700, 999])
        assert torch.allclose(gated(x, t).logits, plain(x * alpha[t][:, None, None, None], t).logits, atol=1e-5)
        between = 0.5 * (alpha[300] + alpha[301])
        assert torch.allclose(gated(x, 300.5).logits, plain(x * between, 300.5).logits, atol=1e-5)

    def test_the_gradient_vanishes_with_the_signal(self):
        network = make("ConvClassifier", noise_schedule=NOISE_SCHEDULE)
        lengths = []
        for t in (100, 999):  # normalisation inside must not undo the scale
            x = noise(1, *LATENT).requires_grad_()
            network(x, t).logits[0, 3].backward()
            lengths.append(x.grad.norm())
        alpha = DDPMScheduler(**NOISE_SCHEDULE).alphas_cumprod.sqrt()
        assert 0 < lengths[1] < 10 * alpha[999] / alpha[100] * lengths[0]
