"""A label that is given changes the output: the probe that holds a denoiser to it."""

import pytest
import torch
from diffusers import DDPMScheduler

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.storage.assemble import assemble_pipeline
from mnist_guided_pipeline.storage.probe import check_label_effect
from tiny import shaken


def make(num_classes: int | None = 3) -> mgp.MLPDenoiser:
    torch.manual_seed(0)
    return shaken(mgp.MLPDenoiser(sample_shape=(5,), hidden_size=16, num_classes=num_classes))


def test_passes_where_every_label_matters_and_leaves_the_network_as_it_was():
    denoiser = make().train()
    denoiser.class_embedding.weight.data.mul_(1e-2)  # a small effect is one
    before = {key: tensor.clone() for key, tensor in denoiser.state_dict().items()}
    check_label_effect(denoiser)
    assert denoiser.training and all(parameter.grad is None for parameter in denoiser.parameters())
    assert all(torch.equal(before[key], tensor) for key, tensor in denoiser.state_dict().items())
    check_label_effect(make(num_classes=None))  # there is nothing to ask


def test_refuses_one_that_ignores_some_or_all_of_its_labels():
    denoiser = make()
    denoiser.class_embedding.weight.data[3] = denoiser.class_embedding.weight.data[1]
    with pytest.raises(ValueError, match="1 of the 6 pairs of labels .* such as 1 and 3, the null class"):
        check_label_effect(denoiser)
    denoiser.class_embedding.weight.data.zero_()
    with pytest.raises(ValueError, match="The MLPDenoiser has num_classes=3 but ignores class_labels: 6 of the 6"):
        check_label_effect(denoiser)


def test_exact_networks_pass():
    mixture = {"means": [[-2.0], [0.0], [2.0]], "classes": [0, 1, 2], "weights": [0.2, 0.3, 0.5]}
    check_label_effect(mgp.MixtureDenoiser(**mixture, covariances=[[[0.1]]] * 3, num_classes=3))


def test_assembly_refuses_a_denoiser_that_ignores_its_labels(tmp_path):
    denoiser = make()
    DDPMScheduler(clip_sample=False).save_pretrained(tmp_path / "scheduler")
    denoiser.save_pretrained(tmp_path)
    assert assemble_pipeline(None, tmp_path, None).denoiser_is_conditional
    torch.nn.init.zeros_(denoiser.class_embedding.weight)
    denoiser.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="The MLPDenoiser has num_classes=3 but ignores class_labels"):
        assemble_pipeline(None, tmp_path, None)
