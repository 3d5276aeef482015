"""Train a noise-aware classifier p(y | x, t), the guide, on the samples and the noise law of a denoiser.

    python training/train_classifier.py --vae_path runs/vae --denoiser_path runs/denoiser \
        --score_matching_weight 1 --output_dir runs/classifier

Cross-entropy alone makes a classifier that reads well, but guidance uses its *gradient*. With
``score_matching_weight`` the loss also asks that the guided prediction of the denoiser be right: the denoising loss
of ``denoiser + gradient`` for the true class (Chao et al. 2022, https://arxiv.org/abs/2203.14206, equation 11).

The result in output_dir is a plain folder for ``ResidualMLPClassifier.from_pretrained``.
"""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import ModelMixin

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.checkpoints import TrainingState, averaged_weights, make_ema
from mnist_guided_pipeline.config import ClassifierConfig
from mnist_guided_pipeline.encoding import PosteriorTable, clean_samples
from mnist_guided_pipeline.loading import load_network
from mnist_guided_pipeline.losses import guided_denoising_loss
from mnist_guided_pipeline.noise import add_noise
from mnist_guided_pipeline.progress import Progress, checkpoint_when_due
from mnist_guided_pipeline.push import save_result, start_push
from mnist_guided_pipeline.runtime import begin, launch, load_splits, make_optimizer, make_stream, run_settings
from mnist_guided_pipeline.streams import keyed_generator
from mnist_guided_pipeline.training_noise import TrainingNoise


def main(config: ClassifierConfig, accelerator: Accelerator) -> None:
    """Train, then save the averaged weights."""
    device = accelerator.device
    if accelerator.is_main_process:
        start_push(config)
    train, test = load_splits(config, accelerator)
    vae = load_network(config.vae_path, "vae").to(device) if config.vae_path else None
    denoiser = load_network(config.denoiser_path, "denoiser").to(device) if config.denoiser_path else None
    samples = clean_samples(train, vae, progress=accelerator.is_local_main_process).to(device)
    test_samples = clean_samples(test, vae, progress=False).to(device)

    noise_law = TrainingNoise(config)
    network_class = getattr(mgp, config.network)
    classifier = network_class(
        **{
            "sample_shape": samples.sample_shape,
            "num_classes": len(train.class_names),
            **noise_law.arguments_of(network_class),
            **config.network_arguments,
        }
    )
    stream = make_stream(config, accelerator, len(train))
    total_updates = config.total_updates(stream.updates_per_epoch)
    optimizer, schedule = make_optimizer(config, classifier, total_updates)
    model, optimizer = accelerator.prepare(classifier, optimizer)
    ema = make_ema(classifier, config.ema_decay) if config.use_ema else None
    state = TrainingState(
        run_settings(config, stream),
        {"classifier": classifier},
        {"classifier": ema} if ema else {},
        {"classifier": optimizer},
        {"classifier": schedule},
        accelerator.scaler,
    )
    begin(config, accelerator, state)

    progress = Progress(accelerator, total_updates, state.update, stream.global_batch_size)
    validate_every = config.validation_steps or stream.updates_per_epoch
    model.train()
    while state.update < total_updates:
        indices = stream.indices(state.update)
        generator = stream.generator(state.update)
        torch.manual_seed(stream.dropout_seed(state.update))
        posterior_noise, noise = torch.randn(2, len(indices), *samples.sample_shape, generator=generator)
        levels = noise_law.draw(len(indices), generator)
        for part in stream.parts():
            z0 = samples.draw(indices[part], posterior_noise[part].to(device))
            eps = noise[part].to(device)
            labels = train.labels[indices[part]].to(device)
            level = noise_law.levels(levels[part], z0)
            noisy = add_noise(z0, eps, level).requires_grad_(config.score_matching_weight > 0)
            times = noise_law.timesteps(levels[part], device)
            with accelerator.autocast():
                logits = model(noisy, times, return_dict=False)[0]
            cross_entropy = F.cross_entropy(logits.float(), labels)
            loss, score_matching = cross_entropy, cross_entropy.new_zeros(())
            if denoiser is not None and config.score_matching_weight > 0:
                with accelerator.autocast(), torch.no_grad():
                    prediction = denoiser(noisy, times, return_dict=False)[0].float()
                score_matching = guided_denoising_loss(
                    prediction, logits, labels, noisy, z0, eps, level, config.prediction_type
                )
                loss = loss + config.score_matching_weight * score_matching
            accelerator.backward(loss / config.gradient_accumulation_steps)
        grad_norm = accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if ema:
            ema.step(classifier.parameters())
        state.update += 1
        progress.update(
            state.update,
            {
                "loss": loss.detach(),
                "cross_entropy": cross_entropy.detach(),
                "score_matching": score_matching.detach(),
                "lr": schedule.get_last_lr()[0],
                "grad_norm": grad_norm,
            },
        )
        if state.update % validate_every == 0 or state.update == total_updates:
            with averaged_weights(ema, classifier):
                figures = validate(classifier, denoiser, test_samples, test.labels, noise_law, config)
            accelerator.log(figures, step=state.update)
            progress.write(
                f"update {state.update}: " + ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            )
        checkpoint_when_due(config, accelerator, state, progress)
    progress.close()

    if accelerator.is_main_process:
        if ema:
            ema.copy_to(classifier.parameters())
        classifier.save_pretrained(config.output_dir)
        noise_law.scheduler.save_pretrained(f"{config.output_dir}/scheduler")
        save_result(config)


def validate(
    classifier: ModelMixin,
    denoiser: ModelMixin | None,
    samples: PosteriorTable,
    labels: torch.Tensor,
    noise_law: TrainingNoise,
    config: ClassifierConfig,
    num_ranges: int = 10,
) -> dict[str, float]:
    """Accuracy on the test set in equal ranges of the timestep, and the guided denoising loss with a denoiser.

    The same noise is used every time.
    """
    classifier.eval()
    device = classifier.device
    generator = keyed_generator(config.seed, "validation")
    count = len(labels)
    posterior_noise, noise = torch.randn(2, count, *samples.sample_shape, generator=generator).to(device)
    levels = noise_law.spread(count)
    z0 = samples.draw(torch.arange(count), posterior_noise)
    correct: list[torch.Tensor] = []
    unguided: list[torch.Tensor] = []
    guided: list[torch.Tensor] = []
    for rows in torch.arange(count).split(1000):
        level = noise_law.levels(levels[rows], z0)
        times, targets = noise_law.timesteps(levels[rows], device), labels[rows].to(device)
        noisy = add_noise(z0[rows], noise[rows], level).requires_grad_()
        logits = classifier(noisy, times).logits
        correct.append((logits.argmax(dim=1) == targets).float().detach().cpu())
        if denoiser is not None:
            with torch.no_grad():
                prediction = denoiser(noisy, times).sample
            truth = (z0[rows], noise[rows], level, config.prediction_type)
            for scale, losses in ((0.0, unguided), (1.0, guided)):
                loss = guided_denoising_loss(prediction, logits, targets, noisy, *truth, scale=scale)
                losses.append(loss.detach().cpu())
    classifier.train()
    figures = {}
    for index, chunk in enumerate(torch.cat(correct).tensor_split(num_ranges)):
        figures[f"test/accuracy_t{index}of{num_ranges}"] = chunk.mean().item()
    if denoiser is not None:
        figures["test/denoising_loss_unguided"] = torch.stack(unguided).mean().item()
        figures["test/denoising_loss_guided"] = torch.stack(guided).mean().item()
    return figures


if __name__ == "__main__":
    launch(ClassifierConfig, main)
