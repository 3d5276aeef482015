"""Train a denoiser and its guide together, so that the classifier alone draws what a label would.

    python training/train_pair.py --vae_path runs/vae --denoiser_path runs/denoiser \
        --classifier_path runs/classifier --output_dir runs/pair

The denoiser learns to take the classifier's posterior ``p(y | x, t)`` in place of a label: its unconditional
prediction ``U`` is then the mean of the conditional ones, as the mixture identity has it. The classifier learns the
gradient that turns ``U`` into the prediction for a label (Chao et al. 2022, https://arxiv.org/abs/2203.14206, equation
11, with a trained denoiser's prediction in place of the data's):

    cross-entropy + w |U + k grad log p(y | x, t) - D(x, t, y)|^2 + w |L(x, t, y) - D(x, t, y)|^2

``L`` is its prediction for a label, ``D`` that of the denoiser to start from, which stays as it is. A quarter of the
samples are noisy data with their own label, the others are states that guided sampling has visited, with the label that
it was guided to (``rollouts.py``).

The result in output_dir is a plain folder for ``ResidualMLPClassifier.from_pretrained``, with the denoiser in
``denoiser/``; ``mnist-guided assemble --denoiser runs/pair --classifier runs/pair`` finds both.
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import ModelMixin
from torch import Tensor

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.posteriors import PosteriorTable, clean_samples
from mnist_guided_pipeline.sampling.noise import NoiseLevel
from mnist_guided_pipeline.sampling.schedulers import describe_noise
from mnist_guided_pipeline.seeding import keyed_generator
from mnist_guided_pipeline.storage.lineage import note_latents
from mnist_guided_pipeline.storage.pipelines import load_network
from mnist_guided_pipeline.training.checkpoints import averaged_weights
from mnist_guided_pipeline.training.config import PairConfig
from mnist_guided_pipeline.training.launch import launch, load_fitting, load_splits
from mnist_guided_pipeline.training.losses import denoising_loss, guided_denoising_loss
from mnist_guided_pipeline.training.noise import TrainingNoise
from mnist_guided_pipeline.training.rollouts import VisitedStates, roll_out
from mnist_guided_pipeline.training.run import Run


class Objective(torch.nn.Module):
    """Both networks and their loss in one forward pass, so that every launcher can wrap it."""

    def __init__(self, denoiser: ModelMixin, classifier: ModelMixin, config: PairConfig):
        super().__init__()
        self.denoiser: ModelMixin = denoiser
        self.classifier: ModelMixin = classifier
        self.config = config

    def forward(
        self,
        noisy: Tensor,
        times: Tensor,
        labels: Tensor,
        target: Tensor,
        level: NoiseLevel,
        own: Tensor,
        keeps_label: Tensor,
    ) -> dict[str, Tensor]:
        """The terms of the loss, each () and a mean over the batch.

        ``labels`` (B,) are of the data, or what sampling was guided to; ``target`` is what the guided prediction of
        ``noisy`` (B, ...) should be. ``own``, bool (B,), are the noisy data, and ``keeps_label`` those of them on which
        the denoiser is also given the label.
        """
        config = self.config
        noisy = noisy.detach().requires_grad_()
        logits = self.classifier(noisy, times, return_dict=False)[0].float()
        unlabelled = self.denoiser(noisy.detach(), times, logits.softmax(dim=-1), return_dict=False)[0].float()
        with torch.autocast(noisy.device.type, enabled=False):  # for forward passes, not for gradients
            guided = guided_denoising_loss(unlabelled, logits, labels, noisy, target, level, config.prediction_type)
        cross_entropy = F.cross_entropy(logits, labels, reduction="none")
        terms = {"cross_entropy": (cross_entropy * own).mean() / (1 - config.visited_share), "guided": guided}
        if config.told_share > 0:
            kept = noisy.detach()[keeps_label], times[keeps_label], labels[keeps_label]
            labelled = self.denoiser(*kept, return_dict=False)[0].float()
            errors = (labelled - target[keeps_label]).square().sum() / target.numel()
            terms["told"] = errors / ((1 - config.visited_share) * config.told_share)
        if config.target == "data":
            terms["unlabelled"] = denoising_loss(unlabelled, target)
        return terms


def main(config: PairConfig, accelerator: Accelerator) -> None:
    """Train, then save the averaged weights of both networks, each with the scheduler."""
    device = accelerator.device
    vae = load_network(config.vae_path, "vae").to(device) if config.vae_path else None
    train, test = load_splits(config, accelerator)
    training_noise = TrainingNoise(config)
    teacher, classifier = (
        load_fitting(config, name, train, vae, training_noise.scheduler) for name in ("denoiser", "classifier")
    )
    teacher.to(device).requires_grad_(False)
    if not isinstance(teacher, mgp.ResidualMLPDenoiser) or teacher.config.num_classes is None:
        raise ValueError(
            f"denoiser_path {config.denoiser_path!r} holds a {type(teacher).__name__} with num_classes "
            f"{teacher.config.num_classes}; train_pair.py starts from a ResidualMLPDenoiser that knows the classes."
        )
    denoiser = mgp.PosteriorResidualMLPDenoiser.from_config(teacher.config)
    denoiser.load_state_dict(teacher.state_dict())
    for network in (denoiser, classifier):
        note_latents(network, vae)
    visited = VisitedStates(config.visited_size, denoiser.config.sample_shape)
    pair = torch.nn.ModuleDict({"denoiser": denoiser, "classifier": classifier, "visited": visited})
    objective = Objective(denoiser, classifier, config)
    run = Run(config, accelerator, train, {"pair": pair}, {"pair": objective})
    visited.to(device)
    samples = clean_samples(train, vae, progress=accelerator.is_local_main_process).to(device)
    test_samples = clean_samples(test, vae, progress=False).to(device)
    labels = train.labels.to(device)

    def draw(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        noises = training_noise.draw(len(indices), samples.sample_shape, generator)
        return indices, *noises, torch.rand(len(indices), 3, generator=generator)

    def prepare(
        indices: Tensor, posterior_noise: Tensor, noise: Tensor, rows: Tensor, chances: Tensor
    ) -> tuple[Tensor | None, ...]:
        noisy, _, _, target = training_noise.examples(samples, indices, posterior_noise, noise, rows)
        return noisy, rows, labels[indices], target, chances

    rolled_out = -1
    for noisy, rows, wanted, target, chances in run.batches(draw, prepare):
        update = run.state.update
        if config.visited_share > 0 and update % config.rollout_interval == 0 and rolled_out != update:
            settings = describe_noise(training_noise.scheduler)
            generator = keyed_generator(config.seed, "rollout", update)
            with averaged_weights(run.learners["pair"].ema, pair), accelerator.autocast():
                roll_out(visited, denoiser, classifier, settings, config.rollout_size, config.rollout_steps, generator)
            rolled_out = update
        own = chances[:, 0] >= config.visited_share
        keeps_label = own & (chances[:, 1] < config.told_share)
        if config.visited_share > 0:
            states, visited_rows, guided_to = visited.pick(chances[:, 2])
            noisy = torch.where(own.reshape(-1, *(1,) * (noisy.ndim - 1)), noisy, states)
            rows, wanted = torch.where(own, rows, visited_rows), torch.where(own, wanted, guided_to)
        times, level = training_noise.at(rows, noisy)
        with accelerator.autocast():
            if config.target == "teacher":
                with torch.no_grad():
                    target = teacher(noisy, times, wanted, return_dict=False)[0].float()
            terms = run.model(noisy, times, wanted, target, level, own, keeps_label)
        denoising = sum(term for name, term in terms.items() if name != "cross_entropy")
        loss = terms["cross_entropy"] + config.score_matching_weight * denoising
        if run.step(loss, **terms):
            run.validate(lambda: validate(denoiser, classifier, teacher, test_samples, test.labels, training_noise))
    started_from = {"denoiser": config.denoiser_path, "classifier": config.classifier_path}
    schedulers = dict.fromkeys(("scheduler", "denoiser/scheduler"), training_noise.scheduler)
    run.finish(classifier, started_from, denoiser=denoiser, **schedulers)


def validate(
    denoiser: ModelMixin,
    classifier: ModelMixin,
    teacher: ModelMixin,
    samples: PosteriorTable,
    labels: Tensor,
    training_noise: TrainingNoise,
) -> dict[str, float | Tensor]:
    """On the test set, with the same noise every time: accuracy, and denoising losses (mean over dimensions).

    ``gap`` is ``|U - sum_y p(y | x, t) D(x, t, y)|^2``, summed over dimensions, for levels from a tenth to half of the
    schedule: how far the unconditional prediction is from the mean of the conditional ones.
    """
    prediction_type, count = training_noise.config.prediction_type, training_noise.config.num_train_timesteps
    sums: dict[str, list[Tensor]] = {"accuracy": [], "unlabelled": [], "guided": [], "told": [], "gap": []}
    for noisy, times, wanted, truth, level in training_noise.validation_batches(samples, labels):
        logits = classifier(noisy.requires_grad_(), times).logits
        posterior = logits.detach().softmax(dim=-1)
        with torch.no_grad():
            unlabelled = denoiser(noisy, times, posterior).sample
            labelled = denoiser(noisy, times, wanted).sample
            every = [teacher(noisy, times, torch.full_like(wanted, y)).sample for y in range(logits.shape[1])]
            mixture = torch.einsum("by,yb...->b...", posterior, torch.stack(every))
        guided = guided_denoising_loss(unlabelled, logits, wanted, noisy, truth, level, prediction_type)
        inner = (times >= 0.1 * count) & (times <= 0.5 * count)
        sums["accuracy"].append((logits.argmax(dim=1) == wanted).float().detach())
        sums["unlabelled"].append(denoising_loss(unlabelled, truth).reshape(1))
        sums["guided"].append(guided.detach().reshape(1))
        sums["told"].append(denoising_loss(labelled, truth).reshape(1))
        sums["gap"].append((unlabelled - mixture).square().flatten(1).sum(dim=1)[inner])
    return {f"test/{name}": torch.cat(parts).mean().item() for name, parts in sums.items()}


if __name__ == "__main__":
    launch(PairConfig, main)
