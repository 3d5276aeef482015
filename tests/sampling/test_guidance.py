"""The guidance rule against independent formulas for the score, and the classifier's gradient against its limit."""

import math
from functools import partial

import pytest
import torch

import mnist_guided_pipeline as mgp
import tiny
from mnist_guided_pipeline.evaluation.oracle import LINEAR, PLANE, exact_pipeline
from mnist_guided_pipeline.sampling.arguments import excluded_classes
from mnist_guided_pipeline.sampling.guidance import (
    class_log_likelihood,
    classifier_score,
    guidance_factor,
    guided_prediction,
    has_signal,
    rescaled_prediction,
)
from mnist_guided_pipeline.sampling.noise import NoiseLevel, add_noise
from mnist_guided_pipeline.training.losses import guided_denoising_loss

A, B = 0.6, 0.8


noise = partial(tiny.noise, dtype=torch.float64)


SCORES = {  # score of x = a x0 + b eps that a prediction p implies
    "epsilon": lambda p, x, a, b: -p / b,
    "sample": lambda p, x, a, b: (a * p - x) / b**2,
    "v_prediction": lambda p, x, a, b: -(a * p + b * x) / b,
    "flow_prediction": lambda p, x, a, b: -(x + a * p) / b,
}


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 7.0, torch.tensor([[0.0], [1.0], [4.0]])], ids=str)
class TestGuidedPrediction:
    @pytest.mark.parametrize("kind", SCORES)
    @pytest.mark.parametrize("sigma", [0.02, 0.8, 0.999])
    def test_implies_the_sum_of_both_scores(self, kind, sigma, scale):
        alpha = 1 - sigma if kind == "flow_prediction" else math.sqrt(1 - sigma**2)
        x, prediction, g = noise(3, 2), noise(3, 2, seed=1), noise(3, 2, seed=2)
        guided = guided_prediction(prediction, g, guidance_factor(alpha, sigma, kind), scale)
        before, after = (SCORES[kind](p, x, alpha, sigma) for p in (prediction, guided))
        torch.testing.assert_close(after, before + scale * g)


@pytest.mark.parametrize(("kind", "sigma_data"), [("score", None), ("sample", 0.5), ("flow_prediction", 0.5)])
def test_a_prediction_without_a_rule_is_refused(kind, sigma_data):
    with pytest.raises(ValueError, match=f"No guidance rule for prediction_type '{kind}'"):
        guidance_factor(A, B, kind, sigma_data)


class TestLogLikelihood:
    logits = 3 * noise(5, 4)
    labels = torch.tensor([2, 0, 3, 3, 1])

    one, several = torch.nn.functional.one_hot(labels, 4).float(), torch.tensor([[0.5, 0.0, 0.25, 0.25]])

    @pytest.mark.parametrize("weights", [one, excluded_classes(labels, 4), several])
    def test_weights_mix_probabilities(self, weights):
        expected = torch.log((weights * torch.softmax(self.logits, 1)).sum(1))
        torch.testing.assert_close(class_log_likelihood(self.logits, weights.expand(5, 4)), expected)

    @pytest.mark.parametrize("temperature", [1.0, 2.5])
    def test_reads_each_row_at_its_own_label_and_temperature_divides_the_logits(self, temperature):
        log_p = torch.log_softmax(self.logits / temperature, 1)
        expected = torch.stack([row[y] for row, y in zip(log_p, self.labels, strict=True)])
        torch.testing.assert_close(class_log_likelihood(self.logits, self.labels, temperature), expected)

    def test_is_computed_in_float32_at_least(self):
        assert class_log_likelihood(self.logits.bfloat16(), self.labels).dtype == torch.float32
        assert class_log_likelihood(self.logits, self.labels).dtype == torch.float64


def mlp_classifier():
    torch.manual_seed(0)
    return mgp.MLPClassifier(sample_shape=(2,), num_classes=2, hidden_size=16).double()


CLASSIFIERS = {
    "exact": lambda: mgp.MixtureClassifier(**PLANE.parameters, schedule=LINEAR).double(),
    "trained": mlp_classifier,
}
X, T, Y = noise(6, 2), torch.tensor(321.5), torch.tensor([0, 1, 1, 0, 1, 0])


@pytest.mark.parametrize("name", CLASSIFIERS)
class TestClassifierScore:
    @pytest.mark.parametrize("temperature", [1.0, 3.0])
    @pytest.mark.parametrize("labels", [Y, torch.tensor([[0.3, 0.7]]).expand(6, 2)], ids=["hard", "soft"])
    def test_equals_finite_differences(self, name, labels, temperature):
        classifier, h = CLASSIFIERS[name](), 1e-5
        score = classifier_score(classifier, X, T, labels, temperature)
        for i in range(2):
            step = h * torch.eye(2, dtype=X.dtype)[i]
            values = [class_log_likelihood(classifier(x, T).logits, labels, temperature) for x in (X + step, X - step)]
            torch.testing.assert_close(score[:, i], (values[0] - values[1]) / (2 * h), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("amount", [0.0, 0.7, 1.0])
def test_rescaling_restores_the_spread(amount):
    guided, unguided = noise(3, 4, 7, 7) * torch.tensor([2.0, 5.0, 0.5])[:, None, None, None], noise(3, 4, 7, 7, seed=1)
    spreads = [value.flatten(1).std(dim=1) for value in (guided, unguided)]
    found = rescaled_prediction(guided, unguided, amount).flatten(1).std(dim=1)
    torch.testing.assert_close(found, (1 - amount) * spreads[0] + amount * spreads[1])


def test_nothing_is_guided_where_no_signal_is_left():
    assert has_signal(5e-3, "preserving") and not has_signal(4.9e-3, "preserving")
    assert has_signal(2e-2, "flow") and not has_signal(1.9e-2, "flow")


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_exact_networks_leave_nothing_to_learn_for_any_class(prediction_type):
    """Bayes' rule: guided by the exact classifier, the denoiser predicts what it would if given the class."""
    pipe = exact_pipeline(PLANE, "DDPMScheduler", prediction_type, conditional=True)
    timesteps = torch.arange(5, 1000, 25)
    x0 = torch.as_tensor(PLANE.draw(None, len(timesteps), seed=0))
    alpha_squared = pipe.scheduler.alphas_cumprod.double()[timesteps, None]
    level = NoiseLevel(alpha_squared.sqrt(), (1 - alpha_squared).sqrt())
    noisy = add_noise(x0, noise(*x0.shape), level).requires_grad_()
    prediction = pipe.denoiser(noisy, timesteps).sample.detach()
    logits = pipe.classifier(noisy, timesteps).logits
    for label in (0, 1):  # for most of the samples one of them is not their own
        labels = torch.full((len(timesteps),), label)
        conditional = pipe.denoiser(noisy, timesteps, labels).sample.detach()
        arguments = (prediction, logits, labels, noisy, conditional, level, prediction_type)
        assert guided_denoising_loss(*arguments) < 1e-10
        assert guided_denoising_loss(*arguments, scale=0.5) > 1e-3
