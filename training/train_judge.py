"""Train the judge: the classifier of clean images that measures generated ones, and never guides them.

    python training/train_judge.py --dataset_name ylecun/mnist --output_dir runs/judge

The result in output_dir is a plain folder for ``AutoModelForImageClassification.from_pretrained``, in
float16. The judge reads images (B, C, H, W) of the data set's shape in model range [-1, 1]: no mean or deviation of
the data enters.

Batch normalisation makes the images that pass together depend on each other. Here ``norm_batch_size`` images
pass together (train_batch_size if left out): with the same number, two processes or accumulated batches give the
same weights as one process (ghost batches, Hoffer et al. 2017, https://arxiv.org/abs/1705.08741, algorithm 1).
The statistics belong to the weights they were taken with; those of the averaged weights are measured on training
images.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from torch.optim.swa_utils import update_bn
from transformers import PreTrainedModel, ResNetForImageClassification

from mnist_guided_pipeline.data.images import LabelledImages, to_model_range, to_unit_range
from mnist_guided_pipeline.seeding import keyed_generator
from mnist_guided_pipeline.training.config import JudgeConfig
from mnist_guided_pipeline.training.launch import build_network, launch, load_splits
from mnist_guided_pipeline.training.run import Run

_MAX_ROTATION = 15.0  # degrees
_MAX_SHEAR = 0.2  # horizontal, the tangent of its angle
_MAX_SCALING = 0.15  # relative
_MAX_SHIFT = 2.0  # pixels, in either direction


def main(config: JudgeConfig, accelerator: Accelerator) -> None:
    """Train, then save the averaged weights in half precision."""
    train, test = load_splits(config, accelerator)
    channels, *size = train.image_shape
    label2id = {name: index for index, name in train.id2label.items()}
    data: dict[str, Any] = {"num_channels": channels, "id2label": train.id2label, "label2id": label2id}
    judge = build_network(ResNetForImageClassification, data, "network_config", config.network_config)
    judge.config.image_size = size
    norm_batch_size = config.norm_batch_size or config.train_batch_size
    run = Run(config, accelerator, train, {"judge": judge}, settings={"norm_batch_size": norm_batch_size})
    pixels, labels = train.images.to(accelerator.device), train.labels.to(accelerator.device)

    def draw(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        return indices, torch.rand(len(indices), 5, generator=generator) * 2.0 - 1.0

    for rows, draws in run.batches(draw, part_size=norm_batch_size):
        images = augment(to_unit_range(pixels.index_select(0, rows)), draws)
        with accelerator.autocast():
            logits = run.model(images * 2.0 - 1.0).logits
        if run.step(F.cross_entropy(logits.float(), labels[rows])):
            run.validate(lambda: validate(judge, train, test, config))
    if accelerator.is_main_process:
        measure_batch_norm(judge, train)
    run.finish(judge.eval().half())


def augment(images: Tensor, draws: Tensor) -> Tensor:
    """Rotate, shear, scale and shift every image by its own amounts, with one resampling for the whole batch.

    Images (B, C, H, W) are in unit range [0, 1] with background 0; ``draws`` (B, 5) in [-1, 1] are the shares of the
    largest rotation, shear, scaling and of both shifts.
    """
    height, width = images.shape[2:]
    angle = draws[:, 0] * math.radians(_MAX_ROTATION)
    shear = draws[:, 1] * _MAX_SHEAR
    scale = 1.0 + draws[:, 2] * _MAX_SCALING
    pixel = torch.tensor([2.0 / width, 2.0 / height], device=images.device)  # an image spans [-1, 1] both ways
    shift = draws[:, 3:] * (_MAX_SHIFT * pixel)
    cos, sin, aspect = scale * torch.cos(angle), scale * torch.sin(angle), height / width
    rows = [torch.stack([cos, (shear * cos - sin) * aspect], 1), torch.stack([sin / aspect, shear * sin + cos], 1)]
    matrices = torch.cat([torch.stack(rows, 1), shift[:, :, None]], dim=2)  # (B, 2, 3): from output to input
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def measure_batch_norm(judge: PreTrainedModel, train: LabelledImages) -> None:
    """Take the batch-norm statistics of the judge's present weights on 10,000 training images."""
    update_bn((to_model_range(batch).to(judge.device) for batch in train.images[:10_000].split(500)), judge)


@torch.no_grad()
def validate(
    judge: PreTrainedModel, train: LabelledImages, test: LabelledImages, config: JudgeConfig
) -> dict[str, float | Tensor]:
    """Accuracy and cross-entropy on the test set, and eight training images as the judge may see them."""
    measure_batch_norm(judge, train)
    judge.eval()
    batches = (to_model_range(batch).to(judge.device) for batch in test.images.split(1000))
    logits = torch.cat([judge(batch).logits for batch in batches]).float().cpu()
    judge.train()
    draws = torch.rand(8, 5, generator=keyed_generator(config.seed, "validation")) * 2.0 - 1.0
    augmented = augment(to_unit_range(train.images[:8].cpu()), draws)
    return {
        "test/accuracy": (logits.argmax(dim=1) == test.labels).double().mean().item(),
        "test/cross_entropy": F.cross_entropy(logits, test.labels).item(),
        "train/augmented": (augmented * 255.0).round().to(torch.uint8).squeeze(1),
    }


if __name__ == "__main__":
    launch(JudgeConfig, main)
