"""Train the judge: the classifier of clean images that measures generated ones, and never guides them.

    python training/train_judge.py --dataset_name ylecun/mnist --output_dir runs/judge

The result in output_dir is a plain folder for ``AutoModelForImageClassification.from_pretrained``, in
float16. The judge reads images (B, 1, 28, 28) in model range [-1, 1]: no mean or deviation of the data
enters.

Batch normalisation makes the images that pass together depend on each other. Here ``norm_batch_size`` images
pass together (train_batch_size if left out): with the same number, two processes or accumulated batches give the
same weights as one process (ghost batches, Hoffer et al. 2017, https://arxiv.org/abs/1705.08741, algorithm 1).
The statistics belong to the weights they were taken with; those of the averaged weights are measured on training
images.
"""

import math

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.optim.swa_utils import update_bn
from transformers import PreTrainedModel, ResNetConfig, ResNetForImageClassification

from mnist_guided_pipeline.data.images import IMAGE_SIZE, LabelledImages, to_model_range, to_unit_range
from mnist_guided_pipeline.storage.push import save_result, start_push
from mnist_guided_pipeline.training.batches import Batches
from mnist_guided_pipeline.training.checkpoints import (
    TrainingState,
    averaged_weights,
    make_ema,
    put_averaged_weights,
)
from mnist_guided_pipeline.training.config import JudgeConfig
from mnist_guided_pipeline.training.progress import Progress, checkpoint_when_due
from mnist_guided_pipeline.training.runtime import (
    begin,
    launch,
    load_splits,
    make_optimizer,
    make_stream,
    run_settings,
)
from mnist_guided_pipeline.training.sharding import clip_gradients, prepare
from mnist_guided_pipeline.training.tracking import log_images


def main(config: JudgeConfig, accelerator: Accelerator) -> None:
    """Train, then save the averaged weights in half precision."""
    if accelerator.is_main_process:
        start_push(config)
    train, test = load_splits(config, accelerator)
    judge = ResNetForImageClassification(
        ResNetConfig(
            num_channels=1,
            id2label=train.id2label,
            label2id={name: index for index, name in train.id2label.items()},
            **config.network_arguments,
        )
    )
    stream = make_stream(config, accelerator, len(train))
    total_updates = config.total_updates(stream.updates_per_epoch)
    optimizer, schedule = make_optimizer(config, judge, total_updates)
    model, optimizer = prepare(accelerator, judge, optimizer)
    parameters = list(judge.parameters())
    ema = make_ema(judge, config.ema_decay) if config.use_ema else None
    state = TrainingState(
        run_settings(config, stream) | {"norm_batch_size": config.norm_batch_size or config.train_batch_size},
        {"judge": judge},
        {"judge": ema} if ema else {},
        {"judge": optimizer},
        {"judge": schedule},
        accelerator.scaler,
    )
    begin(config, accelerator, state)

    norm_batch_size = config.norm_batch_size or config.train_batch_size
    passes_of_a_batch = config.train_batch_size // norm_batch_size
    pixels, labels = train.images.to(accelerator.device), train.labels.to(accelerator.device)

    def draw(indices: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, ...]:
        return indices, torch.rand(len(indices), 5, generator=generator) * 2.0 - 1.0

    batches = Batches(stream, accelerator.device, total_updates, draw, part_size=norm_batch_size)
    progress = Progress(accelerator, total_updates, state.update, stream.global_batch_size)
    validate_every = config.validation_steps or stream.updates_per_epoch
    model.train()
    while state.update < total_updates:
        for rows, draws in batches.of(state.update):
            images = augment(to_unit_range(pixels.index_select(0, rows)), draws, config)
            with accelerator.autocast():
                logits = model(images * 2.0 - 1.0).logits
            loss = F.cross_entropy(logits.float(), labels[rows])
            accelerator.backward(loss / passes_of_a_batch)
        grad_norm = clip_gradients(accelerator, parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if ema:
            ema.step(parameters)
        state.update += 1
        readings = {"loss": loss.detach(), "lr": schedule.get_last_lr()[0], "grad_norm": grad_norm}
        progress.update(state.update, readings)
        if state.update % validate_every == 0 or state.update == total_updates:
            with averaged_weights(ema, judge):
                figures = validate(judge, train, test)
            accelerator.log(figures, step=state.update)
            shown = (images[:8, 0] * 255.0).round().to(torch.uint8)
            log_images(accelerator, "train/augmented", shown, state.update)
            summary = ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
            progress.write(f"update {state.update}: {summary}")
        checkpoint_when_due(config, accelerator, state, progress)
    progress.close()

    put_averaged_weights(ema, judge)
    if accelerator.is_main_process:
        measure_batch_norm(judge, train)
        judge.eval().half().save_pretrained(config.output_dir)
        save_result(config)


def augment(images: torch.Tensor, draws: torch.Tensor, config: JudgeConfig) -> torch.Tensor:
    """Rotate, shear, scale and shift every image by its own amounts, with one resampling for the whole batch.

    Args:
        images: (B, 1, 28, 28) in unit range [0, 1], background 0.
        draws: (B, 5) in [-1, 1]: the share of the largest rotation, shear, scaling and of both shifts.
        config: those largest amounts.

    Returns:
        (B, 1, 28, 28) in unit range.
    """
    angle = draws[:, 0] * math.radians(config.max_rotation)
    shear = draws[:, 1] * config.max_shear
    scale = 1.0 + draws[:, 2] * config.max_scaling
    shift = draws[:, 3:] * (2.0 * config.max_shift / IMAGE_SIZE)  # an image spans [-1, 1] in grid coordinates
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    rows = [torch.stack([cos, shear * cos - sin], 1), torch.stack([sin, shear * sin + cos], 1)]
    matrices = torch.cat([torch.stack(rows, 1), shift[:, :, None]], dim=2)  # (B, 2, 3): from output to input
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def measure_batch_norm(judge: PreTrainedModel, train: LabelledImages) -> None:
    """Take the batch-norm statistics of the judge's present weights on 10,000 training images."""
    update_bn((to_model_range(batch).to(judge.device) for batch in train.images[:10_000].split(500)), judge)


@torch.no_grad()
def validate(judge: PreTrainedModel, train: LabelledImages, test: LabelledImages) -> dict[str, float]:
    """Accuracy and cross-entropy on the test set."""
    measure_batch_norm(judge, train)
    judge.eval()
    batches = (to_model_range(batch).to(judge.device) for batch in test.images.split(1000))
    logits = torch.cat([judge(batch).logits for batch in batches]).float().cpu()
    judge.train()
    return {
        "test/accuracy": (logits.argmax(dim=1) == test.labels).double().mean().item(),
        "test/cross_entropy": F.cross_entropy(logits, test.labels).item(),
    }


if __name__ == "__main__":
    launch(JudgeConfig, main)
