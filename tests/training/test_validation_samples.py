"""Images drawn while a denoiser is trained: what the pipeline would draw, the same noise every time."""

import importlib

import pytest
import torch
from diffusers import DDIMScheduler
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.seeding import keyed_generator
from mnist_guided_pipeline.training.config import DenoiserConfig
from mnist_guided_pipeline.training.noise import TrainingNoise
from training_runs import make_config, train

validation_samples = importlib.import_module("train_denoiser").validation_samples


def networks(num_classes=None):
    torch.manual_seed(0)
    vae = mgp.MLPVAE(latent_dim=4, hidden_size=16)
    return mgp.MLPDenoiser((4,), hidden_size=16, num_classes=num_classes), vae


def logged(folder):
    """The updates whose samples TensorBoard has."""
    steps = []
    for file in folder.rglob("events.out.tfevents*"):
        events = EventAccumulator(str(file), size_guidance={"images": 0})
        events.Reload()
        if "samples" in events.Tags()["images"]:
            steps += [event.step for event in events.Images("samples")]
    return steps


@pytest.mark.parametrize("prediction_type", ["v_prediction", "flow_prediction"])
def test_they_are_the_same_every_time_and_leave_the_network_and_the_generator_as_they_were(prediction_type):
    denoiser, vae = networks(num_classes=10)
    noise = TrainingNoise(DenoiserConfig("", prediction_type=prediction_type)).scheduler
    denoiser.train()
    state = torch.get_rng_state()
    images = validation_samples(denoiser, vae, noise, 20, seed=3)
    assert images.shape == (20, 28, 28) and images.dtype == torch.uint8
    assert denoiser.training
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(validation_samples(denoiser, vae, noise, 20, seed=3), images)
    assert not torch.equal(validation_samples(denoiser, vae, noise, 20, seed=4), images)


def test_a_conditional_denoiser_draws_as_many_of_each_class_in_order():
    denoiser, vae = networks(num_classes=10)
    noise = TrainingNoise(DenoiserConfig("")).scheduler
    pipe = mgp.ClassifierGuidedLatentPipeline(vae, denoiser.eval(), None, noise)
    pipe.scheduler = pipe.make_scheduler(DDIMScheduler)
    start = torch.randn(20, 4, generator=keyed_generator(0, "samples"))
    classes = [index // 2 for index in range(20)]
    expected = pipe(classes, num_inference_steps=20, latents=start, output_type="pt").images
    found = validation_samples(denoiser, vae, noise, 20, seed=0)
    assert torch.equal(found, (expected[:, 0] * 255).round().to(torch.uint8))
    assert not torch.equal(found, validation_samples(*networks(), noise, 20, seed=0))


@pytest.mark.parametrize(("count", "points"), [(3, False), (0, False), (10, True)])
def test_training_logs_them_with_every_validation(digits_folder, tmp_path, count, points):
    """Of images, where some are wanted; points are no images."""
    changes = {"report_to": "tensorboard", "num_validation_images": count, "max_train_steps": 4}
    changes |= {"validation_steps": 2, "lr_warmup_steps": 0, "checkpointing_steps": None}
    if points:
        changes |= {"network": "PointDenoiser", "network_config": '{"hidden_size": 8}', "snr_gamma": None}
    train("denoiser", make_config("denoiser", "points:moons" if points else digits_folder, tmp_path, **changes))
    assert logged(tmp_path) == ([2, 4] if count and not points else [])
