"""Train a whole pipeline by a preset: autoencoder, its decoder, denoiser, classifier, the two together, assembled.

    python training/train_pipeline.py --preset default --dataset_name ylecun/mnist --output_dir runs/default

Each step trains in ``output_dir/steps`` by the script of its name. A step that has finished with the same settings is
kept where those before it are, so the same command continues an interrupted run. The result in output_dir is a plain
folder for ``ClassifierGuidedLatentPipeline.from_pretrained``.
"""

import dataclasses
import itertools
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from diffusers import UniPCMultistepScheduler

import train_classifier
import train_decoder
import train_denoiser
import train_pair
import train_vae
from mnist_guided_pipeline.storage.assemble import assemble_pipeline, keep_recipes
from mnist_guided_pipeline.storage.push import finish_push, start_push
from mnist_guided_pipeline.training.config import CommonConfig, NetworkConfig, TrainingConfig
from mnist_guided_pipeline.training.launch import end, load_splits, make_accelerator, plain_errors
from mnist_guided_pipeline.training.presets import PRESETS

SCRIPTS = {
    "vae": train_vae,
    "decoder": train_decoder,
    "denoiser": train_denoiser,
    "classifier": train_classifier,
    "pair": train_pair,
}


@dataclass
class PipelineConfig(CommonConfig):
    """Settings of ``train_pipeline.py``; the steps are in the subfolder steps of ``output_dir``."""

    preset: Literal[tuple(PRESETS)] = "default"  # type: ignore[valid-type]
    """Which settings to train by."""
    dataset_name: str | None = None
    """Hub id, a folder with the same parquet files, or for a preset of points a name such as points:star; the preset's
    own if left out."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Compute type of every step; the preset's own if left out."""
    checkpointing_steps: int | None = 500
    """Updates between checkpoints of a step."""
    dry_run: bool = False
    """Print the settings of every step and write nothing; that of a step's own script estimates time and memory."""


def main(config: PipelineConfig) -> None:
    """Train what is not trained yet, then assemble."""
    config.check()
    preset = PRESETS[config.preset]
    settings = step_settings(config)
    processes = PartialState(cpu=not torch.accelerator.is_available())
    class_names = load_splits(settings["denoiser"], processes)[1].class_names
    settings = {name: with_num_classes(step, len(class_names)) for name, step in settings.items()}
    finished = list(itertools.takewhile(lambda name: is_finished(settings[name]), settings))
    later = [step.output_dir for step in settings.values()][len(finished) + 1 :]
    outdated = [folder for folder in later if Path(folder).exists()]  # made from a step that is to be trained anew
    holds_pipeline = Path(config.output_dir, "model_index.json").exists()
    if len(finished) < len(settings) and not config.force and (holds_pipeline or outdated):
        raise ValueError(
            f"output_dir {config.output_dir!r} holds a pipeline of other settings. Choose another output_dir, or "
            "replace it with --force."
        )
    for name, step in settings.items():
        if name not in finished:
            step.check()
        if config.dry_run:
            print(name, step.to_json())
    if config.dry_run:
        return
    start_push(config)
    if processes.is_main_process:
        for folder in outdated:
            shutil.rmtree(folder)
    processes.wait_for_everyone()
    for name, step in settings.items():
        accelerator = make_accelerator(step)
        if name in finished:
            accelerator.print(f"{name}: finished before, kept")
            continue
        accelerator.print(f"{name}: training in {step.output_dir}")
        SCRIPTS[name].main(step, accelerator)
        accelerator.wait_for_everyone()
        accelerator.free_memory()
    if accelerator.is_main_process:
        folders = {name: step.output_dir for name, step in settings.items()}
        vae, denoiser, classifier = folders.get("decoder", folders.get("vae")), folders["denoiser"], None
        if "pair" in folders:  # trained on from the two before it
            denoiser = classifier = folders["pair"]
        elif "classifier" in folders:
            classifier = folders["classifier"]
        pipeline = assemble_pipeline(vae, denoiser, classifier, class_names)
        order = 3 if preset.pair else 2  # better in the few steps of a pair (training/RESULTS.md, Notes)
        pipeline.scheduler = pipeline.make_scheduler(UniPCMultistepScheduler, solver_order=order)
        pipeline.register_to_config(sampling_defaults=preset.sampling_defaults)
        pipeline.save_pretrained(config.output_dir)
        keep_recipes(config.output_dir, {"vae": vae, "denoiser": denoiser, "classifier": classifier})
        print(f"pipeline: {config.output_dir}")
        finish_push(config)
    end(accelerator)


def step_settings(config: PipelineConfig) -> dict[str, Any]:
    """The settings of the steps by name, in order: the preset's own, with what the command line says of all."""
    own = ("output_dir", "push_to_hub", "hub_model_id", "hub_private_repo", "dry_run")  # of the pipeline
    shared = {
        field.name: getattr(config, field.name) for field in dataclasses.fields(CommonConfig) if field.name not in own
    }
    for name in ("dataset_name", "mixed_precision"):
        if getattr(config, name) is not None:
            shared[name] = getattr(config, name)
    preset = PRESETS[config.preset]
    steps = {name: getattr(preset, name) for name in SCRIPTS if getattr(preset, name) is not None}
    folders = {name: str(Path(config.output_dir, "steps", name)) for name in steps}
    vae = folders.get("decoder") or folders.get("vae")  # the former is the latter with a sharpened decoder
    paths = {"decoder": {"vae_path": folders.get("vae")}, "denoiser": {"vae_path": vae}}
    paths["classifier"] = {"vae_path": vae, "denoiser_path": folders["denoiser"]}
    paths["pair"] = {**paths["classifier"], "classifier_path": folders.get("classifier")}
    return {
        name: dataclasses.replace(
            step, output_dir=folders[name], resume_from_checkpoint="latest", **shared, **paths.get(name, {})
        )
        for name, step in steps.items()
    }


def with_num_classes(config: TrainingConfig, num_classes: int) -> TrainingConfig:
    """The settings of a step for a data set of that many classes; a preset's are those of MNIST."""
    if not isinstance(config, NetworkConfig) or "num_classes" not in config.network_arguments:
        return config
    arguments = config.network_arguments | {"num_classes": num_classes}
    return dataclasses.replace(config, network_config=json.dumps(arguments))


def is_finished(config: TrainingConfig) -> bool:
    """Whether a step's folder holds the result of these very settings; those of earlier versions do not count."""
    file = Path(config.output_dir) / "train_config.json"
    if not file.is_file():
        return False
    saved = json.loads(file.read_text(encoding="utf-8"))
    wanted = {name: value for name, value in dataclasses.asdict(config).items() if name not in ("force", "report_to")}
    return all(saved.get(name, value) == value for name, value in wanted.items())


if __name__ == "__main__":
    import tyro

    with plain_errors():
        main(tyro.cli(PipelineConfig, description=None))
