"""The noise schedule of a training is the scheduler's own, and one that does not end in noise gets a warning."""

import warnings

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.posteriors import PosteriorTable
from mnist_guided_pipeline.sampling.noise import prediction_target
from mnist_guided_pipeline.storage.assemble import assemble_pipeline
from mnist_guided_pipeline.training.config import DenoiserConfig
from mnist_guided_pipeline.training.losses import guided_denoising_loss
from mnist_guided_pipeline.training.noise import TrainingNoise

TYPES = ("epsilon", "sample", "v_prediction", "flow_prediction")


def noise_of(prediction_type: str = "v_prediction", **settings) -> TrainingNoise:
    return TrainingNoise(DenoiserConfig("", prediction_type=prediction_type, **settings))


def noisy_by_the_scheduler(schedule: TrainingNoise, x0, noise, rows):
    if isinstance(schedule.scheduler, FlowMatchEulerDiscreteScheduler):
        return schedule.scheduler.scale_noise(x0, schedule.scheduler.timesteps.flip(0)[rows], noise)
    return schedule.scheduler.add_noise(x0, noise, schedule.at(rows, x0)[0])


@pytest.mark.filterwarnings("ignore:The noise schedule ends at alpha")
@pytest.mark.parametrize("prediction_type", TYPES)
def test_noise_is_added_as_the_scheduler_adds_it(prediction_type):
    schedule = noise_of(prediction_type, num_train_timesteps=50)
    rows = torch.arange(50)
    x0, noise = torch.randn(2, 50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = schedule.corrupt(x0, noise, rows)[0]
    torch.testing.assert_close(ours, noisy_by_the_scheduler(schedule, x0, noise, rows), rtol=1e-5, atol=1e-5)


def test_a_flow_network_is_given_the_timesteps_of_the_sampler():
    schedule = noise_of("flow_prediction", num_train_timesteps=50)
    schedule.scheduler.set_timesteps(50)
    given, _ = schedule.at(torch.arange(50), torch.zeros(50, 3))
    torch.testing.assert_close(schedule.scheduler.timesteps.flip(0), given.float())


def test_levels_are_drawn_uniformly_and_spread_evenly():
    schedule = noise_of(num_train_timesteps=10)
    drawn = schedule.draw(20_000, (1,), torch.Generator().manual_seed(0))[2].bincount(minlength=10)
    assert (drawn - 2_000).abs().max() < 5 * (20_000 * 0.1 * 0.9) ** 0.5
    test = PosteriorTable(torch.zeros(3_000, 1), None), torch.arange(3_000)
    first, again = (list(schedule.validation_batches(*test)) for _ in range(2))
    assert [len(noisy) for noisy, *_ in first] == [1_000] * 3
    assert torch.cat([times for _, times, *_ in first]).tolist() == [i // 300 for i in range(3_000)]
    assert torch.cat([labels for _, _, labels, *_ in first]).equal(test[1])
    assert all(torch.equal(one[0], other[0]) for one, other in zip(first, again, strict=True))


@pytest.mark.parametrize(
    ("settings", "signal"),
    [
        ({"num_train_timesteps": 20, "beta_schedule": "linear"}, 0.817),
        ({"num_train_timesteps": 200, "beta_schedule": "linear"}, 0.132),
    ],
)
def test_a_schedule_that_keeps_the_signal_gets_a_warning_that_says_what_would_do(settings, signal):
    with pytest.warns(UserWarning, match="squaredcos_cap_v2, or more than .* timesteps, or a larger --beta_end"):
        schedule = noise_of(**settings)
    product = torch.linspace(1e-4, 0.02, settings["num_train_timesteps"], dtype=torch.float64)
    assert float(schedule.table.alpha[-1] ** 2) == pytest.approx(float((1 - product).prod()), rel=1e-4)
    assert float(schedule.table.alpha[-1] ** 2) == pytest.approx(signal, abs=2e-3)


@pytest.mark.filterwarnings("ignore:The noise schedule ends at alpha")
@pytest.mark.parametrize("prediction_type", TYPES)
def test_a_target_is_the_expectation_of_what_made_the_noisy_sample(prediction_type):
    """For one image all is Gaussian, so the expectation is the line of least squares through the draws' own targets."""
    schedule, count, row = noise_of(prediction_type, num_train_timesteps=50), 50_000, 20
    samples = PosteriorTable(torch.tensor([[0.7]]), torch.tensor([[0.5]]))
    indices, rows = torch.zeros(count, dtype=torch.int64), torch.full((count,), row)
    u, eps, _ = schedule.draw(count, (1,), torch.Generator().manual_seed(0))
    noisy, _, level, target = schedule.examples(samples, indices, u, eps, rows)
    z0 = 0.7 + 0.5 * u
    torch.testing.assert_close(noisy, level.alpha * z0 + level.sigma * eps)
    own = prediction_target(z0, eps, level, prediction_type)
    line = torch.cat([torch.ones_like(noisy), noisy], dim=1)
    fitted = line @ torch.linalg.lstsq(line, own).solution
    torch.testing.assert_close(target, fitted, rtol=0, atol=0.05)
    assert target.var() < 0.9 * own.var()
    exact = schedule.examples(PosteriorTable(samples.mean, None), indices, u, eps, rows)[3]  # points have no spread
    torch.testing.assert_close(exact, prediction_target(torch.tensor(0.7), eps, level, prediction_type).expand_as(eps))


@pytest.mark.parametrize("prediction_type", TYPES)
def test_the_usual_schedules_end_in_noise(prediction_type):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if prediction_type != "epsilon":
            assert noise_of(prediction_type, num_train_timesteps=100).table.alpha[-1] < 0.1
        if prediction_type != "flow_prediction":
            assert noise_of(prediction_type, beta_schedule="linear").table.alpha[-1] < 0.01


def test_too_little_signal_for_a_predicted_epsilon_gets_a_warning():
    """Its error is divided by alpha: an error of one percent moves the clean sample by two hundred deviations."""
    with pytest.warns(
        UserWarning, match=r"ends at alpha = 4\.9e-05.* Use --prediction_type v_prediction, or --beta_sch"
    ):
        schedule = noise_of("epsilon")
    assert 0.01 / schedule.table.alpha[-1] > 200


@pytest.mark.parametrize("prediction_type", ["v_prediction", "flow_prediction"])
def test_a_gated_classifier_reads_alpha_times_the_sample(prediction_type):
    schedule = noise_of(prediction_type, num_train_timesteps=40)
    arguments = schedule.arguments_of(mgp.ResidualMLPClassifier)
    network = mgp.ResidualMLPClassifier((3,), hidden_size=8, num_layers=1, condition_dim=8, **arguments)
    gates = network.gate(schedule.at(torch.arange(40), torch.ones(40, 1))[0], torch.ones(40, 1))
    torch.testing.assert_close(gates.flatten().double(), schedule.table.alpha, rtol=1e-5, atol=1e-6)
    assert schedule.arguments_of(mgp.MLPClassifier) == {}


def test_the_loss_of_guidance_is_finite_where_a_flow_has_no_signal():
    schedule = noise_of("flow_prediction", num_train_timesteps=4)
    classifier = mgp.MLPClassifier((3,), num_classes=2, hidden_size=8)
    x0, noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    noisy, times, level = schedule.corrupt(x0, noise, torch.arange(4))
    assert level.alpha[-1] == 0
    logits = classifier(noisy.requires_grad_(), times).logits
    labels = torch.tensor([0, 1, 0, 1])
    loss = guided_denoising_loss(torch.zeros(4, 3), logits, labels, noisy, noise - x0, level, "flow_prediction")
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in classifier.parameters() if parameter.grad is not None)


def save(network: torch.nn.Module, schedule: TrainingNoise, folder) -> str:
    network.save_pretrained(folder)
    schedule.scheduler.save_pretrained(folder / "scheduler")
    return str(folder)


def test_a_pipeline_of_flow_networks(tmp_path):
    schedule = noise_of("flow_prediction")
    denoiser = save(mgp.MLPDenoiser((3,), hidden_size=8), schedule, tmp_path / "denoiser")
    classifier = save(mgp.MLPClassifier((3,), hidden_size=8), schedule, tmp_path / "classifier")
    pipe = assemble_pipeline(None, denoiser, classifier)
    assert isinstance(pipe.scheduler, FlowMatchEulerDiscreteScheduler)
    points = pipe([1, 2], num_inference_steps=3, guidance_scale=1.0, output_type="latent").images
    assert points.shape == (2, 3) and points.isfinite().all()

    other = save(mgp.MLPClassifier((3,), hidden_size=8), noise_of(), tmp_path / "preserving")
    with pytest.raises(ValueError, match="different noise .*law 'flow' and 'preserving'"):
        assemble_pipeline(None, denoiser, other)
