"""Train a noise-aware classifier p(y | x, t), the guide, on the samples and the noise schedule of a denoiser.

    python training/train_classifier.py --vae_path runs/vae --denoiser_path runs/denoiser \
        --score_matching_weight 1 --output_dir runs/classifier

Cross-entropy alone makes a classifier that reads well, but guidance uses its *gradient*. With
``score_matching_weight`` the loss also asks that the guided prediction of the denoiser be right: the denoising loss
of ``denoiser + gradient`` for the true class (Chao et al. 2022, https://arxiv.org/abs/2203.14206, equation 11). Samples
that carry their own label say little of the gradient towards another class, which guidance needs wherever a sample has
drifted; with ``random_label_share`` a class-conditional denoiser teaches that too.

The result in output_dir is a plain folder for ``ResidualMLPClassifier.from_pretrained``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import ModelMixin
from torch import Tensor

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.posteriors import PosteriorTable, clean_samples, sample_shape_of
from mnist_guided_pipeline.sampling.networks import mean_prediction, predict
from mnist_guided_pipeline.sampling.networks import num_classes as classes_of
from mnist_guided_pipeline.sampling.noise import NoiseLevel
from mnist_guided_pipeline.storage.pipelines import load_network
from mnist_guided_pipeline.training.config import ClassifierConfig
from mnist_guided_pipeline.training.launch import launch, load_fitting, load_splits, make_network
from mnist_guided_pipeline.training.losses import guided_denoising_loss
from mnist_guided_pipeline.training.noise import TrainingNoise
from mnist_guided_pipeline.training.run import Run


class Objective(torch.nn.Module):
    """Read and guide: one forward pass with the inner gradient in it, so that every launcher can wrap it."""

    def __init__(self, classifier: ModelMixin):
        super().__init__()
        self.classifier: ModelMixin = classifier

    def forward(self, noisy: Tensor, times: Tensor, labels: Tensor, *guided: Any) -> tuple[Tensor, Tensor | None]:
        """Cross-entropy of ``labels``, and the loss of a guided denoiser.

        ``guided`` is the denoiser's prediction, the classes to guide it to, and what follows in
        ``guided_denoising_loss``; without it that loss is None.
        """
        noisy = noisy.detach().requires_grad_(bool(guided))
        logits = self.classifier(noisy, times, return_dict=False)[0].float()
        cross_entropy = F.cross_entropy(logits, labels)
        if not guided:
            return cross_entropy, None
        prediction, wanted, *truth = guided
        with torch.autocast(noisy.device.type, enabled=False):  # for forward passes, not for gradients
            return cross_entropy, guided_denoising_loss(prediction, logits, wanted, noisy, *truth)


def main(config: ClassifierConfig, accelerator: Accelerator) -> None:
    """Train, then save the averaged weights and the scheduler."""
    device = accelerator.device
    vae = load_network(config.vae_path, "vae").to(device) if config.vae_path else None
    train, test = load_splits(config, accelerator)
    num_classes, training_noise, denoiser = len(train.class_names), TrainingNoise(config), None
    if config.denoiser_path:
        denoiser = load_fitting(config, "denoiser", train, vae, training_noise.scheduler).to(device)
    if config.random_label_share > 0 and denoiser is not None and classes_of(denoiser) != num_classes:
        raise ValueError(
            f"random_label_share {config.random_label_share} needs a denoiser that knows the {num_classes} classes of "
            f"the data set, but {config.denoiser_path!r} has num_classes {classes_of(denoiser)}: train one with "
            "num_classes in its network_config, or leave out random_label_share."
        )
    network_class = getattr(mgp, config.network)
    arguments = {"sample_shape": sample_shape_of(train, vae), "num_classes": num_classes}
    arguments |= training_noise.arguments_of(network_class)
    classifier = make_network(config, network_class, train, arguments, vae=vae, component="classifier")
    matches_scores = denoiser is not None and config.score_matching_weight > 0
    run = Run(config, accelerator, train, {"classifier": classifier}, {"classifier": Objective(classifier)})
    samples = clean_samples(train, vae, progress=accelerator.is_local_main_process).to(device)
    test_samples = clean_samples(test, vae, progress=False).to(device)
    labels = train.labels.to(device)

    def draw(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        noises = training_noise.draw(len(indices), samples.sample_shape, generator)
        wanted = train.labels[indices]
        if config.random_label_share > 0:
            random = torch.rand(len(indices), generator=generator) < config.random_label_share
            wanted = torch.where(random, torch.randint(num_classes, wanted.shape, generator=generator), wanted)
        return indices, *noises, wanted

    def prepare(
        indices: Tensor, posterior_noise: Tensor, noise: Tensor, rows: Tensor, wanted: Tensor
    ) -> tuple[Tensor | None, ...]:
        noisy, times, level, target = training_noise.examples(samples, indices, posterior_noise, noise, rows)
        return noisy, times, labels[indices], wanted, target, *level

    for noisy, times, classes, wanted, target, alpha, sigma in run.batches(draw, prepare):
        guided: tuple[Any, ...] = ()
        with accelerator.autocast():
            if matches_scores:
                with torch.no_grad():
                    prediction = mean_prediction(predict(denoiser, noisy, times).sample, noisy).float()
                    if config.random_label_share > 0:
                        conditional = mean_prediction(predict(denoiser, noisy, times, wanted).sample, noisy).float()
                        other = (wanted != classes).reshape(-1, *(1,) * (target.ndim - 1))
                        target = torch.where(other, conditional, target)
                guided = (prediction, wanted, target, NoiseLevel(alpha, sigma), config.prediction_type)
            cross_entropy, score_matching = run.model(noisy, times, classes, *guided)
        loss, values = cross_entropy, {"cross_entropy": cross_entropy}
        if score_matching is not None:
            loss = loss + config.score_matching_weight * score_matching
            values["score_matching"] = score_matching
        if run.step(loss, **values):
            run.validate(lambda: validate(classifier, denoiser, test_samples, test.labels, training_noise))
    run.finish(classifier, scheduler=training_noise.scheduler)


def validate(
    classifier: ModelMixin,
    denoiser: ModelMixin | None,
    samples: PosteriorTable,
    labels: Tensor,
    training_noise: TrainingNoise,
    num_ranges: int = 10,
) -> dict[str, float | Tensor]:
    """Accuracy on the test set in equal ranges of the timestep, and the guided denoising loss with a denoiser.

    The same noise is used every time.
    """
    classifier.eval()
    prediction_type = training_noise.config.prediction_type
    correct: list[Tensor] = []
    unguided: list[Tensor] = []
    guided: list[Tensor] = []
    for noisy, times, classes, target, level in training_noise.validation_batches(samples, labels):
        logits = classifier(noisy.requires_grad_(), times).logits
        correct.append((logits.argmax(dim=1) == classes).float().detach().cpu())
        if denoiser is not None:
            with torch.no_grad():
                prediction = mean_prediction(predict(denoiser, noisy, times).sample, noisy)
            for scale, losses in ((0.0, unguided), (1.0, guided)):
                loss = guided_denoising_loss(prediction, logits, classes, noisy, target, level, prediction_type, scale)
                losses.append(loss.detach().cpu())
    classifier.train()
    values: dict[str, float | Tensor] = {}
    for index, chunk in enumerate(torch.cat(correct).tensor_split(num_ranges)):
        values[f"test/accuracy_t{index}of{num_ranges}"] = chunk.mean().item()
    if denoiser is not None:
        values["test/denoising_loss_unguided"] = torch.stack(unguided).mean().item()
        values["test/denoising_loss_guided"] = torch.stack(guided).mean().item()
    return values


if __name__ == "__main__":
    launch(ClassifierConfig, main)
