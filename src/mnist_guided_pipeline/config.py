"""Settings of the training scripts: dataclasses that are the command line, the presets and ``train_config.json``.

Flag names follow diffusers' training scripts. ``parse(Config)`` reads the command line (``--train_batch_size`` and
``--train-batch-size`` alike) and :meth:`TrainingConfig.check` refuses what contradicts itself before any work.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

__all__ = [
    "ClassifierConfig",
    "DenoiserConfig",
    "JudgeConfig",
    "LatentTrainingConfig",
    "TrainingConfig",
    "VAEConfig",
    "noise_scheduler",
    "parse",
]

Config = TypeVar("Config", bound="TrainingConfig")


@dataclass
class TrainingConfig:
    """What every training script takes."""

    output_dir: str
    """Folder for the trained network, its checkpoints and logs."""
    network: str = ""
    """Class of the network."""
    network_config: str = "{}"
    """Its constructor's arguments, as a JSON object; what the data decide is filled in."""
    dataset_name: str = "ylecun/mnist"
    """Hub id, or a folder with the same parquet files."""
    dataset_config_name: str | None = None
    """Configuration of the data set, where it has several."""
    cache_dir: str | None = None
    """Where data sets are cached."""
    image_column: str = "image"
    """Column of the images."""
    label_column: str = "label"
    """Column of the classes."""
    max_train_samples: int | None = None
    """Train on the first this many images."""
    max_eval_samples: int | None = None
    """Validate on the first this many images of the test split."""
    seed: int = 0
    """Seed of the initial weights, the order of the data and all noise."""
    train_batch_size: int = 128
    """Images a process takes at a time."""
    gradient_accumulation_steps: int = 1
    """Batches that make one update."""
    num_train_epochs: int = 20
    """Passes over the training set."""
    max_train_steps: int | None = None
    """Updates in all; takes the place of num_train_epochs."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "cosine"
    """Shape of the learning rate over the updates."""
    lr_warmup_steps: int = 100
    """Updates over which the learning rate rises from zero."""
    adam_beta1: float = 0.9
    """Decay of AdamW's first moment."""
    adam_beta2: float = 0.99
    """Decay of AdamW's second moment."""
    adam_weight_decay: float = 0.0
    """Decoupled weight decay."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Compute type of the forward and backward pass."""
    use_ema: bool = True
    """Keep and save an exponential moving average of the weights."""
    ema_decay: float = 0.999
    """Largest decay of the average; it warms up to it."""
    checkpointing_steps: int | None = None
    """Updates between checkpoints; None for none but the result."""
    checkpoints_total_limit: int | None = 2
    """Newest checkpoints that are kept."""
    resume_from_checkpoint: str | None = None
    """'latest', or the path of a checkpoint."""
    validation_steps: int | None = None
    """Updates between validations; None for one an epoch."""
    report_to: Literal["tensorboard", "wandb", "trackio", "all", "none"] = "tensorboard"
    """Tracker of scalars and images."""
    logging_dir: str = "logs"
    """Folder of the tracker, inside output_dir."""
    tracker_project_name: str = "mnist-guided"
    """Project name at the tracker."""
    dry_run: bool = False
    """Print the resolved settings and stop."""

    def check(self) -> None:
        """Refuse settings that contradict themselves.

        Raises:
            ValueError: naming the setting, its value and what would do.
        """
        try:
            well_formed = isinstance(self.network_arguments, dict)
        except json.JSONDecodeError:
            well_formed = False
        if not well_formed:
            raise ValueError(
                f"network_config must be a JSON object such as '{{\"hidden_size\": 256}}', got {self.network_config!r}."
            )
        positive = (
            "train_batch_size",
            "gradient_accumulation_steps",
            "num_train_epochs",
            "max_train_steps",
            "max_train_samples",
            "max_eval_samples",
            "checkpointing_steps",
            "checkpoints_total_limit",
            "validation_steps",
            "learning_rate",
            "max_grad_norm",
        )
        for name in positive:
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}.")
        if self.lr_warmup_steps < 0:
            raise ValueError(f"lr_warmup_steps must not be negative, got {self.lr_warmup_steps}.")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}; turn EMA off with --no_use_ema.")
        if self.resume_from_checkpoint not in (None, "latest") and not os.path.isdir(self.resume_from_checkpoint):
            raise ValueError(
                f"resume_from_checkpoint {self.resume_from_checkpoint!r} is not a folder; "
                "give the path of a checkpoint, or 'latest'."
            )

    @property
    def network_arguments(self) -> dict[str, Any]:
        """The parsed ``network_config``."""
        return json.loads(self.network_config)

    def total_updates(self, updates_per_epoch: int) -> int:
        """Updates of the whole run."""
        return self.max_train_steps or self.num_train_epochs * updates_per_epoch

    def to_json(self) -> str:
        """The settings as JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls: type[Config], text: str) -> Config:
        """The inverse of :meth:`to_json`; unknown settings are an error."""
        return cls(**json.loads(text))


@dataclass
class VAEConfig(TrainingConfig):
    """Settings of ``train_vae.py``."""

    network: Literal["MLPVAE", "ConvVAE"] = "ConvVAE"
    """Class of the autoencoder."""
    reconstruction: Literal["bce", "mse"] = "bce"
    """Reconstruction term, summed over pixels."""
    kl_weight: float = 1.0
    """Weight of the KL term, summed over dimensions."""
    kl_warmup_steps: int = 0
    """Updates over which the KL weight rises from zero."""

    def check(self) -> None:
        """See :meth:`TrainingConfig.check`."""
        super().check()
        if self.kl_weight < 0:
            raise ValueError(f"kl_weight must not be negative, got {self.kl_weight}.")


@dataclass
class LatentTrainingConfig(TrainingConfig):
    """What the denoiser and the classifier share: the space and the noise law."""

    vae_path: str | None = None
    """Folder or Hub id of the VAE in whose latent space to work; None for pixel space."""
    num_train_timesteps: int = 1000
    """Timesteps T of the noise law."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = "squaredcos_cap_v2"
    """How the noise grows with the timestep."""
    beta_start: float = 1e-4
    """First beta, for the schedules that have one."""
    beta_end: float = 0.02
    """Last beta, for the schedules that have one."""
    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "v_prediction"
    """What the denoiser predicts."""

    def check(self) -> None:
        """See :meth:`TrainingConfig.check`."""
        super().check()
        if self.num_train_timesteps < 2:
            raise ValueError(f"num_train_timesteps must be at least 2, got {self.num_train_timesteps}.")
        if not 0.0 < self.beta_start < self.beta_end < 1.0:
            raise ValueError(
                f"beta_start {self.beta_start} and beta_end {self.beta_end} must satisfy 0 < beta_start < beta_end < 1."
            )


@dataclass
class DenoiserConfig(LatentTrainingConfig):
    """Settings of ``train_denoiser.py``."""

    network: Literal["MLPDenoiser", "ResidualMLPDenoiser"] = "ResidualMLPDenoiser"
    """Class of the denoiser."""
    snr_gamma: float | None = None
    """Clamp of min-SNR weighting, 5 in the paper; None for none."""
    label_dropout: float = 0.1
    """Share of labels replaced by the null class, for a denoiser with num_classes."""

    def check(self) -> None:
        """See :meth:`TrainingConfig.check`."""
        super().check()
        if self.snr_gamma is not None and not self.snr_gamma > 0:
            raise ValueError(f"snr_gamma must be positive (5 in the paper), or None, got {self.snr_gamma}.")
        if not 0.0 <= self.label_dropout < 1.0:
            raise ValueError(f"label_dropout must be in [0, 1), got {self.label_dropout}.")


@dataclass
class ClassifierConfig(LatentTrainingConfig):
    """Settings of ``train_classifier.py``."""

    network: Literal["MLPClassifier", "ResidualMLPClassifier"] = "ResidualMLPClassifier"
    """Class of the classifier."""
    denoiser_path: str | None = None
    """Folder or Hub id of the denoiser, for score_matching_weight."""
    score_matching_weight: float = 0.0
    """Weight of the guided denoising loss beside the cross-entropy."""

    def check(self) -> None:
        """See :meth:`TrainingConfig.check`."""
        super().check()
        if self.score_matching_weight < 0:
            raise ValueError(f"score_matching_weight must not be negative, got {self.score_matching_weight}.")
        if self.score_matching_weight > 0 and self.denoiser_path is None:
            raise ValueError(
                f"score_matching_weight {self.score_matching_weight} needs denoiser_path: the loss compares the guided "
                "prediction of that denoiser with the truth."
            )


@dataclass
class JudgeConfig(TrainingConfig):
    """Settings of ``train_judge.py``."""

    network: Literal["ResNetForImageClassification"] = "ResNetForImageClassification"
    """Class of the judge, from transformers."""
    network_config: str = '{"embedding_size": 64, "hidden_sizes": [64, 128], "depths": [2, 2], "layer_type": "basic"}'
    """Arguments of its ResNetConfig, as a JSON object; channels and labels are filled in."""
    max_rotation: float = 15.0
    """Largest rotation of a training image, in degrees."""
    max_shear: float = 0.2
    """Largest horizontal shear, as the tangent of its angle."""
    max_scaling: float = 0.15
    """Largest relative change of size."""
    max_shift: float = 2.0
    """Largest shift in either direction, in pixels."""
    learning_rate: float = 2e-3
    """Peak learning rate."""
    lr_scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"] = "constant_with_warmup"
    """Shape of the learning rate over the updates; the average of the weights takes the place of its decay."""
    adam_weight_decay: float = 0.05
    """Decoupled weight decay."""

    def check(self) -> None:
        """See :meth:`TrainingConfig.check`."""
        super().check()
        for name in ("max_rotation", "max_shear", "max_scaling", "max_shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}; 0 turns it off.")
        if self.max_scaling >= 1:
            raise ValueError(f"max_scaling must be below 1, got {self.max_scaling}; 0.15 is usual.")


def noise_scheduler(config: LatentTrainingConfig) -> Any:
    """The scheduler that adds the noise in training; every value is explicit, so a swap drops none of them."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_schedule=config.beta_schedule,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        prediction_type=config.prediction_type,
        clip_sample=False,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=False,
    )


def parse(config_class: type[Config], arguments: list[str] | None = None) -> Config:
    """Read settings from the command line; an error of :meth:`TrainingConfig.check` ends the program with status 2."""
    import sys

    import tyro

    config = tyro.cli(config_class, args=arguments, description=None)
    try:
        config.check()
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    return config
