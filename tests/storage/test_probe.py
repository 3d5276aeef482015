"""A label that is given changes the output: the probe that holds a denoiser to it."""

import re

import pytest
import torch
from diffusers import DDPMScheduler

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.storage.assemble import assemble_pipeline
from mnist_guided_pipeline.storage.probe import check_label_effect

DENOISERS = {
    "MLPDenoiser": {"sample_shape": (5,), "hidden_size": 16},
    "ResidualMLPDenoiser": {"sample_shape": (5,), "hidden_size": 16, "num_layers": 1, "condition_dim": 8},
    "FiLMConvDenoiser": {"sample_shape": (1, 8, 8), "channels": 8, "num_layers": 1, "condition_dim": 8},
    "UNetDenoiser": {"sample_shape": (1, 8, 8), "block_channels": [8], "condition_dim": 8},
    "DiTDenoiser": {"sample_shape": (1, 8, 8), "hidden_size": 8, "num_layers": 1, "num_heads": 2, "condition_dim": 8},
}


def make(name: str, **arguments) -> torch.nn.Module:
    """A class-conditional denoiser with three classes, all of whose weights are random."""
    torch.manual_seed(0)
    denoiser = getattr(mgp, name)(**{**DENOISERS[name], "num_classes": 3, **arguments})
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return denoiser


@pytest.mark.parametrize("name", DENOISERS)
class TestCheckLabelEffect:
    @pytest.mark.parametrize("mode", [True, False])
    def test_passes_where_every_label_matters_and_leaves_the_network_as_it_was(self, name, mode):
        denoiser = make(name).train(mode)
        denoiser.class_embedding.weight.data.mul_(1e-2)  # a small effect is one
        before = {key: tensor.clone() for key, tensor in denoiser.state_dict().items()}
        check_label_effect(denoiser)
        assert denoiser.training is mode
        assert all(torch.equal(before[key], tensor) for key, tensor in denoiser.state_dict().items())
        assert all(parameter.grad is None for parameter in denoiser.parameters())

    def test_refuses_one_that_ignores_its_labels(self, name):
        denoiser = make(name)
        torch.nn.init.zeros_(denoiser.class_embedding.weight)
        message = f"The {name} has num_classes=3 but ignores class_labels: 6 of the 6 pairs"
        with pytest.raises(ValueError, match=message):
            check_label_effect(denoiser)

    def test_refuses_one_that_takes_a_class_for_the_null_class(self, name):
        denoiser = make(name)
        with torch.no_grad():
            denoiser.class_embedding.weight[3] = denoiser.class_embedding.weight[1]
        with pytest.raises(ValueError, match="1 of the 6 pairs of labels .* such as 1 and 3, the null class"):
            check_label_effect(denoiser)

    def test_has_nothing_to_ask_without_classes(self, name):
        check_label_effect(make(name, num_classes=None))


@pytest.mark.parametrize("name", ["ResidualMLPDenoiser", "FiLMConvDenoiser", "UNetDenoiser", "DiTDenoiser"])
def test_an_untrained_network_is_called_so(name):
    """Their last layer starts at zero, so before the first update no label can matter: not the label's fault."""
    denoiser = getattr(mgp, name)(**DENOISERS[name], num_classes=3)
    with pytest.raises(ValueError, match=f"The {name} is untrained: .* same for every label and every sample"):
        check_label_effect(denoiser)


def test_exact_networks_pass():
    mixture = {"means": [[-2.0], [0.0], [2.0]], "classes": [0, 1, 2], "weights": [0.2, 0.3, 0.5]}
    check_label_effect(mgp.MixtureDenoiser(**mixture, covariances=[[[0.1]]] * 3, num_classes=3))


def test_assembly_refuses_a_denoiser_that_ignores_its_labels(tmp_path):
    denoiser = make("MLPDenoiser")
    DDPMScheduler(clip_sample=False).save_pretrained(tmp_path / "scheduler")
    denoiser.save_pretrained(tmp_path)
    assert assemble_pipeline(None, tmp_path, None).denoiser_is_conditional
    torch.nn.init.zeros_(denoiser.class_embedding.weight)
    denoiser.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=re.escape("The MLPDenoiser has num_classes=3 but ignores class_labels")):
        assemble_pipeline(None, tmp_path, None)
