"""Settings of the training scripts: dataclasses that are the command line, the presets and ``train_config.json``.

Flag names follow diffusers' training scripts. ``command_line`` reads them, and :meth:`TrainingConfig.check` refuses
what contradicts itself before any work.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch

from ..data.points import check_point_set, is_point_set
from ..storage.places import find_folder

__all__ = [
    "AdversarialConfig",
    "ClassifierConfig",
    "DecoderConfig",
    "DenoiserConfig",
    "GANConfig",
    "JudgeConfig",
    "LatentTrainingConfig",
    "TrainingConfig",
    "VAEConfig",
]

Config = TypeVar("Config", bound="TrainingConfig")


@dataclass
class TrainingConfig:
    """What every training script takes."""

    trains_on_points: ClassVar[bool] = False

    output_dir: str
    """Folder for the trained network, its checkpoints and logs."""
    network: str = ""
    """Class of the network."""
    network_config: str = "{}"
    """Its constructor's arguments, as a JSON object; what the data decide is filled in."""
    dataset_name: str = "ylecun/mnist"
    """Hub id, or a folder with the same parquet files; for points in the plane, a name such as points:dino."""
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
    """Updates over which the learning rate rises from zero; where left out, no more than there are."""
    adam_beta1: float = 0.9
    """Decay of AdamW's first moment."""
    adam_beta2: float = 0.99
    """Decay of AdamW's second moment."""
    adam_weight_decay: float = 0.0
    """Decoupled weight decay."""
    adam_epsilon: float = 1e-8
    """AdamW's epsilon."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this norm; None leaves them as they are."""
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    """Compute type of the forward and backward pass."""
    torch_compile: bool = False
    """Compile the forward and backward pass before the first update; needs a C++ compiler."""
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
    push_to_hub: bool = False
    """Upload the result to the Hugging Face Hub; the repository is made before the training starts."""
    hub_model_id: str | None = None
    """Hub id such as user/name; the name of output_dir if None."""
    hub_private_repo: bool = False
    """Make a new repository private."""
    dry_run: bool = False
    """Print the resolved settings, make some updates to measure time and memory, print these, and write nothing."""

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
        if is_point_set(self.dataset_name):
            if not self.trains_on_points:
                raise ValueError(
                    f"dataset_name {self.dataset_name!r} is one of points in the plane, but this network is for "
                    "images; give a Hub id such as 'ylecun/mnist', or a folder with the same parquet files."
                )
            check_point_set(self.dataset_name)
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
        if self.max_train_steps is not None:
            self.warmup_updates(self.max_train_steps)
        package = self.report_to
        if package not in ("all", "none") and importlib.util.find_spec(package) is None:
            mend = "python -m pip install -e '.[training]'" if package == "tensorboard" else f"pip install {package}"
            raise ValueError(f"report_to {package!r} needs the package {package}: {mend}, or --report_to none.")
        on_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        if self.mixed_precision == "fp16" and (on_cpu or not torch.accelerator.is_available()):
            raise ValueError("mixed_precision 'fp16' needs a GPU, and this runs on the CPU; give 'bf16' or 'no'.")
        compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
        if self.torch_compile and not shutil.which(compiler):
            raise ValueError(
                f"torch_compile needs the C++ compiler {compiler}, which is not there; install it, name another in the "
                "environment variable CXX, or leave out torch_compile."
            )

    def check_given(self, given: Collection[str]) -> None:
        """Refuse flags that would be without effect beside others.

        Args:
            given: names of the settings on the command line, such as ``no_use_ema``; defaults and presets do not count.

        Raises:
            ValueError: naming both settings and their values.
        """
        if "ema_decay" in given and not self.use_ema:
            raise ValueError(f"ema_decay {self.ema_decay} contradicts use_ema False; leave out one of them.")
        if "max_train_steps" in given and "num_train_epochs" in given:
            raise ValueError(
                f"max_train_steps {self.max_train_steps} and num_train_epochs {self.num_train_epochs} both say how "
                "long to train; leave out one of them."
            )
        if "lr_warmup_steps" in given and self.lr_warmup_steps and self.lr_scheduler == "constant":
            raise ValueError(
                f"lr_warmup_steps {self.lr_warmup_steps} contradicts lr_scheduler 'constant', which has no warm-up; "
                "give 'constant_with_warmup'."
            )
        for name in ("hub_model_id", "hub_private_repo"):
            if name in given and not self.push_to_hub:
                raise ValueError(f"{name} {getattr(self, name)} is for push_to_hub, which is False; add --push_to_hub.")

    @property
    def network_arguments(self) -> dict[str, Any]:
        """The parsed ``network_config``."""
        return json.loads(self.network_config)

    def total_updates(self, updates_per_epoch: int) -> int:
        """Updates of the whole run."""
        return self.max_train_steps or self.num_train_epochs * updates_per_epoch

    def warmup_updates(self, total_updates: int) -> int:
        """Updates over which the learning rate rises, in a run of ``total_updates``.

        Raises:
            ValueError: more were asked for than the run has.
        """
        default = next(field.default for field in dataclasses.fields(self) if field.name == "lr_warmup_steps")
        if self.lr_warmup_steps > total_updates and self.lr_warmup_steps != default:
            raise ValueError(
                f"lr_warmup_steps {self.lr_warmup_steps} is more than the run has, {total_updates} updates: the "
                f"learning rate would never reach learning_rate {self.learning_rate:g}."
            )
        return min(self.lr_warmup_steps, total_updates)

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
    kl_weight: float | None = None
    """Weight of the KL term, summed over dimensions; 1 if left out. A plain autoencoder has no such term."""
    kl_warmup_steps: int = 0
    """Updates over which the KL weight rises from zero."""

    def check(self) -> None:
        """See :meth:`TrainingConfig.check`."""
        super().check()
        if self.kl_weight is not None and self.kl_weight < 0:
            raise ValueError(f"kl_weight must not be negative, got {self.kl_weight}.")
        if self.network_arguments.get("variational", True):
            return
        for name, value in (("kl_weight", self.kl_weight), ("kl_warmup_steps", self.kl_warmup_steps or None)):
            if value is not None:
                raise ValueError(
                    f"{name} {value} contradicts network_config {self.network_config!r}: an autoencoder that is not "
                    f"variational has no KL term. Leave out {name}, or variational."
                )


@dataclass
class AdversarialConfig(TrainingConfig):
    """What the scripts with a discriminator share; the optimizer's settings are those of both networks."""

    discriminator_config: str = "{}"
    """Arguments of GANDiscriminator, as a JSON object; its num_classes are filled in."""
    r1_gamma: float = 1.0
    """Weight of the R1 penalty; 0 for none."""
    train_batch_size: int = 64
    """Images a process takes at a time."""
    adam_beta1: float = 0.0
    """Decay of AdamW's first moment; momentum makes the two networks circle each other."""
    max_grad_norm: float | None = 10.0
    """Gradients of either network are scaled down to this norm; None leaves them as they are."""

    def check(self) -> None:
        """See :meth:`TrainingConfig.check`."""
        super().check()
        try:
            well_formed = isinstance(self.discriminator_arguments, dict)
        except json.JSONDecodeError:
            well_formed = False
        if not well_formed:
            raise ValueError(
                "discriminator_config must be a JSON object such as '{\"num_features\": 256}', got "
                f"{self.discriminator_config!r}."
            )
        if not self.r1_gamma >= 0:
            raise ValueError(f"r1_gamma must not be negative, got {self.r1_gamma}; 0 turns the penalty off.")
        if self.r1_gamma > 0 and self.torch_compile:
            raise ValueError(
                f"r1_gamma {self.r1_gamma} takes second derivatives, which torch_compile {self.torch_compile} does not "
                "do; leave out one of them."
            )

    @property
    def discriminator_arguments(self) -> dict[str, Any]:
        """The parsed ``discriminator_config``."""
        return json.loads(self.discriminator_config)


@dataclass
class GANConfig(AdversarialConfig):
    """Settings of ``train_gan.py``."""

    network: Literal["GANGenerator"] = "GANGenerator"
    """Class of the generator."""

    def check(self) -> None:
        """See :meth:`TrainingConfig.check`."""
        super().check()
        classes = self.network_arguments.get("num_classes")
        if self.discriminator_arguments.get("num_classes", classes) != classes:
            raise ValueError(
                f"discriminator_config has num_classes {self.discriminator_arguments['num_classes']}, network_config "
                f"{classes}: give num_classes in network_config alone."
            )


@dataclass
class DecoderConfig(AdversarialConfig):
    """Settings of ``train_decoder.py``."""

    vae_path: str = ""
    """Folder or Hub id of the VAE whose decoder to sharpen."""
    reconstruction: Literal["bce", "mse"] = "bce"
    """Reconstruction term, as in train_vae.py."""
    reconstruction_weight: float = 10.0
    """Weight of the reconstruction term, a pixel, beside the adversarial loss."""
    r1_gamma: float = 0.1
    """Weight of the R1 penalty; 0 for none."""

    def check(self) -> None:
        """See :meth:`TrainingConfig.check`."""
        super().check()
        if not self.vae_path:
            raise ValueError("vae_path is missing: give the folder of train_vae.py, or a Hub id.")
        if self.network_arguments:
            raise ValueError(f"network_config {self.network_config!r} is without effect: vae_path has the networks.")
        if not self.reconstruction_weight > 0:
            raise ValueError(
                f"reconstruction_weight must be positive, got {self.reconstruction_weight}: without it the image need "
                "not be the one that the latent is of."
            )

    def check_given(self, given: Collection[str]) -> None:
        """See :meth:`TrainingConfig.check_given`."""
        super().check_given(given)
        if "vae_path" in given:  # train_pipeline.py makes its own later
            _check_network_path("vae_path", self.vae_path)


@dataclass
class LatentTrainingConfig(TrainingConfig):
    """What the denoiser and the classifier share: the space and the noise law."""

    trains_on_points: ClassVar[bool] = True

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
    prediction_type: Literal["epsilon", "sample", "v_prediction", "flow_prediction"] = "v_prediction"
    """What the denoiser predicts; flow_prediction trains a velocity for the FlowMatch schedulers, on straight lines."""

    def check(self) -> None:
        """See :meth:`TrainingConfig.check`."""
        super().check()
        if self.vae_path is not None and is_point_set(self.dataset_name):
            raise ValueError(
                f"vae_path {self.vae_path!r} contradicts dataset_name {self.dataset_name!r}: a VAE makes images, not "
                "points in the plane. Leave out vae_path, or name a data set of images."
            )
        if self.num_train_timesteps < 2:
            raise ValueError(f"num_train_timesteps must be at least 2, got {self.num_train_timesteps}.")
        if not 0.0 < self.beta_start < self.beta_end < 1.0:
            raise ValueError(
                f"beta_start {self.beta_start} and beta_end {self.beta_end} must satisfy 0 < beta_start < beta_end < 1."
            )

    def check_given(self, given: Collection[str]) -> None:
        """See :meth:`TrainingConfig.check_given`."""
        super().check_given(given)
        for name in {"vae_path", "denoiser_path"}.intersection(given):  # train_pipeline.py makes its own later
            _check_network_path(name, getattr(self, name))
        for name in ("beta_schedule", "beta_start", "beta_end"):
            if name not in given:
                continue
            value = getattr(self, name)
            if self.prediction_type == "flow_prediction":
                raise ValueError(
                    f"{name} {value!r} contradicts prediction_type 'flow_prediction', whose straight lines have no "
                    f"betas; leave out {name}."
                )
            if name != "beta_schedule" and self.beta_schedule == "squaredcos_cap_v2":
                raise ValueError(
                    f"{name} {value!r} is without effect on beta_schedule 'squaredcos_cap_v2'; give another schedule, "
                    f"or leave out {name}."
                )


@dataclass
class DenoiserConfig(LatentTrainingConfig):
    """Settings of ``train_denoiser.py``."""

    network: Literal[
        "MLPDenoiser", "ResidualMLPDenoiser", "FiLMConvDenoiser", "UNetDenoiser", "DiTDenoiser", "PointDenoiser"
    ] = "ResidualMLPDenoiser"
    """Class of the denoiser."""
    snr_gamma: float | None = None
    """Clamp of min-SNR weighting, 5 in the paper; None for none."""
    label_dropout: float = 0.1
    """Share of labels replaced by the null class, for a denoiser with num_classes."""
    num_validation_images: int = 20
    """Images drawn at every validation for the tracker, from the same noise, as many of each class; 0 for none."""

    def check(self) -> None:
        """See :meth:`TrainingConfig.check`."""
        super().check()
        if self.snr_gamma is not None and not self.snr_gamma > 0:
            raise ValueError(f"snr_gamma must be positive (5 in the paper), or None, got {self.snr_gamma}.")
        if not 0.0 <= self.label_dropout < 1.0:
            raise ValueError(f"label_dropout must be in [0, 1), got {self.label_dropout}.")
        if self.num_validation_images < 0:
            raise ValueError(
                f"num_validation_images must not be negative, got {self.num_validation_images}; 0 draws none."
            )

    def check_given(self, given: Collection[str]) -> None:
        """See :meth:`TrainingConfig.check_given`."""
        super().check_given(given)
        if "label_dropout" in given and self.label_dropout and self.network_arguments.get("num_classes") is None:
            raise ValueError(
                f"label_dropout {self.label_dropout} is for a denoiser with classes, but network_config "
                f"{self.network_config!r} has no num_classes; add it, or leave out label_dropout."
            )


@dataclass
class ClassifierConfig(LatentTrainingConfig):
    """Settings of ``train_classifier.py``."""

    network: Literal["MLPClassifier", "ResidualMLPClassifier", "ConvClassifier"] = "ResidualMLPClassifier"
    """Class of the classifier."""
    denoiser_path: str | None = None
    """Folder or Hub id of the denoiser, for score_matching_weight."""
    score_matching_weight: float = 0.0
    """Weight of the guided denoising loss beside the cross-entropy."""
    random_label_share: float = 0.0
    """Share of that loss that asks for a random class, with the denoiser's class-conditional prediction for truth."""

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
        if self.score_matching_weight > 0 and self.torch_compile:
            raise ValueError(
                f"score_matching_weight {self.score_matching_weight} takes second derivatives, which torch_compile "
                f"{self.torch_compile} does not do; leave out one of them."
            )
        if not 0.0 <= self.random_label_share < 1.0:
            raise ValueError(f"random_label_share must be in [0, 1), got {self.random_label_share}.")
        if self.random_label_share > 0 and self.score_matching_weight == 0:
            raise ValueError(
                f"random_label_share {self.random_label_share} is a share of the guided denoising loss, whose "
                "score_matching_weight is 0: give that weight, or leave out random_label_share."
            )


@dataclass
class JudgeConfig(TrainingConfig):
    """Settings of ``train_judge.py``."""

    network: Literal["ResNetForImageClassification"] = "ResNetForImageClassification"
    """Class of the judge, from transformers."""
    network_config: str = '{"embedding_size": 64, "hidden_sizes": [64, 128], "depths": [2, 2], "layer_type": "basic"}'
    """Arguments of its ResNetConfig, as a JSON object; channels and labels are filled in."""
    norm_batch_size: int | None = None
    """Images that batch normalisation sees at a time, a divisor of train_batch_size, which it is if None. With the same
    number the weights are the same however a global batch is cut."""
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
        if self.norm_batch_size is not None and (
            self.norm_batch_size < 2 or self.train_batch_size % self.norm_batch_size
        ):
            raise ValueError(
                f"norm_batch_size {self.norm_batch_size} must be at least 2 and divide train_batch_size "
                f"{self.train_batch_size}."
            )
        for name in ("max_rotation", "max_shear", "max_scaling", "max_shift"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}; 0 turns it off.")
        if self.max_scaling >= 1:
            raise ValueError(f"max_scaling must be below 1, got {self.max_scaling}; 0.15 is usual.")


def _check_network_path(name: str, path: str | None) -> None:
    """Refuse what cannot be loaded: a folder without a network, or what is neither a folder nor a Hub id."""
    if path is None:
        return
    folder = find_folder(path, name)
    if folder and not any((folder / file).is_file() for file in ("config.json", "model_index.json")):
        raise ValueError(f"{name} {path!r} holds no config.json and no model_index.json: is its training finished?")
