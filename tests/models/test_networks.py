"""Laws of every denoiser and classifier: shapes, timesteps, labels, independence of the batch, saving."""

import pytest
import torch
from torch import nn

import mnist_guided_pipeline as mgp
from conftest import assert_same_after_saving

SMALL = {"hidden_size": 16}
SMALL_RESIDUAL = {"hidden_size": 16, "num_layers": 2, "condition_dim": 8}
DENOISERS = {"MLPDenoiser": SMALL, "ResidualMLPDenoiser": SMALL_RESIDUAL, "PointDenoiser": SMALL}
CLASSIFIERS = {"MLPClassifier": SMALL, "ResidualMLPClassifier": SMALL_RESIDUAL}
SHAPES = [(2,), (5,), (3, 7, 7), (1, 28, 28)]


def make(name: str, **arguments) -> nn.Module:
    """A network whose weights are all random, so that no zero initialisation hides a path."""
    torch.manual_seed(0)
    network = getattr(mgp, name)(**{**DENOISERS, **CLASSIFIERS}[name], **arguments).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return network


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_every_trained_network_is_here():
    names = {name for name in mgp.__all__ if name.endswith(("Denoiser", "Classifier"))}
    exact = {"MixtureDenoiser", "MixtureClassifier"}  # closed forms, with tests of their own
    of_images = {"FiLMConvDenoiser", "UNetDenoiser", "DiTDenoiser", "ConvClassifier"}  # in test_image_networks
    assert names - exact - of_images == DENOISERS.keys() | CLASSIFIERS.keys()


@pytest.mark.parametrize("name", [*DENOISERS, *CLASSIFIERS])
class TestNetwork:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_shapes(self, name, shape):
        output = make(name, sample_shape=shape)(noise(4, *shape), torch.tensor(7), return_dict=False)[0]
        assert output.shape == ((4, *shape) if name in DENOISERS else (4, 10))

    def test_tuple_and_output_agree(self, name):
        network = make(name, sample_shape=(5,))
        output = network(noise(4, 5), torch.tensor(7))
        named = output.sample if name in DENOISERS else output.logits
        assert torch.equal(named, network(noise(4, 5), torch.tensor(7), return_dict=False)[0])

    def test_every_form_of_a_timestep_is_the_same(self, name):
        network, x = make(name, sample_shape=(3, 7, 7)), noise(4, 3, 7, 7)
        forms = [
            torch.tensor(7),
            torch.tensor([7]),
            torch.full((4,), 7),
            torch.tensor(7.0),
            torch.full((4,), 7.0, dtype=torch.float64),
            torch.full((4,), 7, dtype=torch.int32),
            7,
            7.0,
        ]
        outputs = [network(x, form, return_dict=False)[0] for form in forms]
        for output in outputs[1:]:
            assert torch.allclose(output, outputs[0], atol=1e-6)

    def test_the_timestep_matters_also_between_whole_ones(self, name):
        network, x = make(name, sample_shape=(5,)), noise(1, 5)
        outputs = [network(x, torch.tensor(t), return_dict=False)[0] for t in (10.0, 10.5, 900.0)]
        assert not torch.allclose(outputs[0], outputs[1], atol=1e-6)
        assert not torch.allclose(outputs[0], outputs[2], atol=1e-3)

    def test_a_sample_does_not_depend_on_its_batch(self, name):
        network, x, t = make(name, sample_shape=(3, 7, 7)), noise(5, 3, 7, 7), torch.tensor([3, 50, 400, 800, 999])
        network.train()  # nor in training: statistics of a batch would change the gradient of every guide
        whole = network(x, t, return_dict=False)[0]
        parts = [network(x[i : i + 1], t[i : i + 1], return_dict=False)[0] for i in range(5)]
        assert torch.allclose(whole, torch.cat(parts), atol=1e-5)

    def test_has_no_batch_statistics(self, name):
        modules = make(name, sample_shape=(5,)).modules()
        assert not [
            m
            for m in modules
            if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm))
        ]

    def test_every_parameter_has_a_gradient(self, name):
        network = make(name, sample_shape=(5,))
        network(noise(4, 5), torch.tensor([1, 5, 50, 500]), return_dict=False)[0].square().sum().backward()
        for parameter_name, parameter in network.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert torch.isfinite(parameter.grad).all(), parameter_name
            assert parameter.grad.abs().sum() > 0, parameter_name

    def test_gradient_with_respect_to_the_sample_is_smooth(self, name):
        network = make(name, sample_shape=(3,)).double()
        x = noise(2, 3).double().requires_grad_()
        t = torch.tensor([3, 600])
        forward = lambda sample: network(sample, t, return_dict=False)[0]  # noqa: E731
        assert torch.autograd.gradcheck(forward, x)
        assert torch.autograd.gradgradcheck(forward, x)

    def test_survives_saving(self, name, tmp_path):
        network = make(name, sample_shape=(3, 7, 7))
        loaded = assert_same_after_saving(network, tmp_path)
        x = noise(2, 3, 7, 7)
        expected = network(x, 7, return_dict=False)[0]  # mapped weights are aligned otherwise, which moves the last bit
        assert torch.allclose(loaded(x, 7, return_dict=False)[0], expected, atol=1e-5)

    def test_half_precision(self, name):
        network = make(name, sample_shape=(5,)).to(torch.bfloat16)
        output = network(noise(4, 5).to(torch.bfloat16), torch.tensor(999), return_dict=False)[0]
        assert output.dtype == torch.bfloat16
        assert torch.isfinite(output).all()


@pytest.mark.parametrize("name", DENOISERS)
class TestConditionalDenoiser:
    def test_labels_change_the_prediction(self, name):
        network, x = make(name, sample_shape=(5,), num_classes=3), noise(1, 5).expand(4, 5)
        outputs = network(x, 7, torch.tensor([0, 1, 2, 3])).sample
        assert torch.pdist(outputs).min() > 1e-3

    def test_no_labels_is_the_null_class(self, name):
        network, x = make(name, sample_shape=(5,), num_classes=3), noise(2, 5)
        assert torch.allclose(network(x, 7).sample, network(x, 7, torch.tensor([3, 3])).sample, atol=1e-5)

    def test_labels_for_a_denoiser_without_classes_are_refused(self, name):
        with pytest.raises(ValueError, match="class_labels were given, but this denoiser has no classes"):
            make(name, sample_shape=(5,))(noise(2, 5), 7, torch.tensor([0, 1]))

    def test_labels_out_of_range_are_an_error(self, name):
        with pytest.raises(IndexError):
            make(name, sample_shape=(5,), num_classes=3)(noise(1, 5), 7, torch.tensor([4]))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_number_of_classes(name):
    assert make(name, sample_shape=(5,), num_classes=3)(noise(2, 5), 7).logits.shape == (2, 3)
