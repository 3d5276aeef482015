"""Train a whole pipeline by a preset: autoencoder, its decoder, denoiser, classifier, assembled into one folder.

    python training/train_pipeline.py --preset default --dataset_name ylecun/mnist --output_dir runs/default

Each step trains in ``output_dir/steps`` by the script of its name; a step that has finished with the same settings is
kept, so the same command continues an interrupted run. The result in output_dir is a plain folder for
``ClassifierGuidedLatentPipeline.from_pretrained``.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffusers import DPMSolverMultistepScheduler

import train_classifier
import train_decoder
import train_denoiser
import train_vae
from mnist_guided_pipeline.storage.assemble import assemble_pipeline, keep_recipes
from mnist_guided_pipeline.storage.push import finish_push, start_push
from mnist_guided_pipeline.training.config import TrainingConfig
from mnist_guided_pipeline.training.presets import PRESETS
from mnist_guided_pipeline.training.runtime import finish, load_splits, make_accelerator
from mnist_guided_pipeline.training.safeguards import plain_errors

_HUB = ("push_to_hub", "hub_model_id", "hub_private_repo")  # the steps are not pushed, the pipeline is


@dataclass
class PipelineConfig:
    """Settings of ``train_pipeline.py``; whatever is None comes from the preset."""

    output_dir: str
    """Folder of the pipeline; the steps are in its subfolder steps."""
    preset: Literal[tuple(PRESETS)] = "default"  # type: ignore[valid-type]
    """Which settings to train by."""
    dataset_name: str | None = None
    """Hub id, a folder with the same parquet files, or for a preset of points a name such as points:star."""
    image_column: str = "image"
    """Column of the images."""
    label_column: str = "label"
    """Column of the classes."""
    cache_dir: str | None = None
    """Where data sets are cached."""
    max_train_samples: int | None = None
    """Train on the first this many images."""
    max_eval_samples: int | None = None
    """Validate on the first this many images of the test split."""
    seed: int = 0
    """Seed of every step."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Compute type of every step."""
    checkpointing_steps: int | None = 500
    """Updates between checkpoints of a step."""
    checkpoints_total_limit: int | None = 2
    """Newest checkpoints of a step that are kept; None for all."""
    report_to: Literal["tensorboard", "wandb", "trackio", "all", "none"] = "tensorboard"
    """Tracker of scalars and images."""
    push_to_hub: bool = False
    """Upload the pipeline to the Hugging Face Hub; the repository is made before the training starts."""
    hub_model_id: str | None = None
    """Hub id such as user/name; the name of output_dir if None."""
    hub_private_repo: bool = False
    """Make a new repository private."""
    dry_run: bool = False
    """Print the resolved settings of every step and stop."""


def main(config: PipelineConfig) -> None:
    """Train what is not trained yet, then assemble."""
    preset = PRESETS[config.preset]
    steps = Path(config.output_dir) / "steps"
    optional = ("dataset_name", "mixed_precision")  # the preset's own where they are left out
    shared = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in ("output_dir", "preset", "dry_run", *_HUB, *optional)
    } | {name: getattr(config, name) for name in optional if getattr(config, name) is not None}
    folders = {
        name: str(steps / name) if getattr(preset, name) is not None else None
        for name in ("vae", "decoder", "denoiser", "classifier")
    }
    vae = folders["decoder"] or folders["vae"]  # the former is the latter with a sharpened decoder
    paths = {"decoder": {"vae_path": folders["vae"]}, "denoiser": {"vae_path": vae}}
    paths["classifier"] = {"vae_path": vae, "denoiser_path": folders["denoiser"]}
    settings = {
        name: dataclasses.replace(
            getattr(preset, name),
            output_dir=folder,
            resume_from_checkpoint="latest",
            **shared,
            **paths.get(name, {}),
        )
        for name, folder in folders.items()
        if folder is not None
    }
    for name, step in settings.items():
        step.check()
        if config.dry_run:
            print(name, step.to_json())
    if config.dry_run:
        return
    start_push(config)
    scripts = {
        "vae": train_vae,
        "decoder": train_decoder,
        "denoiser": train_denoiser,
        "classifier": train_classifier,
    }
    for name in settings:
        accelerator = make_accelerator(settings[name])
        if is_finished(settings[name]):
            accelerator.print(f"{name}: finished before, kept")
            continue
        accelerator.print(f"{name}: training in {folders[name]}")
        scripts[name].main(settings[name], accelerator)
        accelerator.wait_for_everyone()
        accelerator.free_memory()
    class_names = load_splits(settings["denoiser"], accelerator)[1].class_names
    if accelerator.is_main_process:
        pipeline = assemble_pipeline(vae, settings["denoiser"].output_dir, folders["classifier"], class_names)
        pipeline.scheduler = pipeline.make_scheduler(DPMSolverMultistepScheduler)
        pipeline.register_to_config(sampling_defaults=preset.sampling_defaults)
        pipeline.save_pretrained(config.output_dir)
        keep_recipes(config.output_dir, {"vae": vae, **{name: folders[name] for name in ("denoiser", "classifier")}})
        print(f"pipeline: {config.output_dir}")
        finish_push(config)
    finish(accelerator)


def is_finished(config: TrainingConfig) -> bool:
    """Whether a step's folder holds the result of these very settings."""
    file = Path(config.output_dir) / "train_config.json"
    return file.is_file() and file.read_text() == config.to_json()


if __name__ == "__main__":
    import tyro

    with plain_errors():
        main(tyro.cli(PipelineConfig, description=None))
