"""The command ``mnist-guided``: each subcommand is a function, its arguments the options, its docstring the help.

Paths are checked before anything heavy is imported, and nothing is overwritten without ``--force``. What the user can
mend ends the program with status 2 and one line on standard error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import tyro

__all__ = ["assemble", "evaluate", "figure", "generate", "main", "render"]


def generate(
    output: Path,
    class_labels: tuple[str, ...] = (),
    num_images_per_label: int = 8,
    model: str | None = None,
    scheduler: str | None = None,
    guidance_scale: tuple[float, ...] = (),
    cfg_scale: float = 1.0,
    num_inference_steps: int | None = None,
    seed: int = 0,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Draw guided images and write them as one picture, a row a label.

    Example: mnist-guided generate --class_labels 3 7 --output digits.png

    Args:
        output: Picture to write, such as digits.png.
        class_labels: Class names or indices, a row each; one row of every class if left out.
        num_images_per_label: Images in a row.
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        scheduler: Name of a diffusers scheduler, such as DDIMScheduler or EulerDiscreteScheduler; the pipeline's own
            if left out. No retraining is needed.
        guidance_scale: How strongly the classifier guides: 0 is off, 1 is Bayes' rule. One number, or one a label;
            the pipeline's own if left out.
        cfg_scale: Classifier-free weight, for a class-conditional denoiser; 1 is off.
        num_inference_steps: Steps of the scheduler; the pipeline's own number if left out.
        seed: Every image has a random generator of its own, made from the seed, its row and its column, so more rows
            or columns leave the others as they are.
        device: Where to compute, such as cpu or cuda; a CUDA device where there is one, else the CPU, if left out.
        force: Overwrite the output.
    """
    started = time.perf_counter()
    _check_picture(output, force)
    if model is not None:
        _check_pipeline_folder(model)

    from .atomic import atomic_write
    from .grids import labelled_grid
    from .labels import resolve_labels
    from .streams import keyed_generator

    pipe = _load_pipeline(model, device)
    if scheduler is not None:
        pipe.scheduler = pipe.make_scheduler(_scheduler_class(scheduler))
    names = pipe.id2label
    given = [_label(text, names.values()) for text in class_labels] or list(names)
    rows = resolve_labels(given, names).tolist()
    loaded = time.perf_counter()
    images = pipe(
        rows,
        num_images_per_label=num_images_per_label,
        guidance_scale=guidance_scale[0] if len(guidance_scale) == 1 else guidance_scale or None,
        cfg_scale=cfg_scale,
        num_inference_steps=num_inference_steps,
        generator=[keyed_generator(seed, row, i) for row in range(len(rows)) for i in range(num_images_per_label)],
    ).images
    sampled = time.perf_counter()
    encoded = BytesIO()
    labelled_grid(images, [names[row] for row in rows]).save(encoded, format=_picture_format(output))
    atomic_write(output, encoded.getvalue())
    print(
        f"{output}: {len(images)} images by {type(pipe.scheduler).__name__} in {pipe.num_timesteps} steps; "
        f"sampling took {sampled - loaded:.1f} s, with loading and writing {time.perf_counter() - started:.1f} s."
    )


def assemble(
    denoiser: Path,
    output: Path,
    vae: Path | None = None,
    classifier: Path | None = None,
    class_names: tuple[str, ...] = (),
    dtype: Literal["float32", "float16"] = "float32",
    force: bool = False,
) -> None:
    """Make one pipeline folder of the networks that the training scripts wrote.

    Example: mnist-guided assemble --vae runs/vae --denoiser runs/denoiser --classifier runs/classifier
    --output runs/pipeline

    Args:
        denoiser: Output folder of train_denoiser.py; its scheduler becomes the pipeline's.
        output: Folder to write.
        vae: Output folder of train_vae.py; left out for networks trained on pixels.
        classifier: Output folder of train_classifier.py; left out for a pipeline without guidance.
        class_names: Name of each class, in label order; 0 1 2 ... if left out.
        dtype: Floating-point type of the saved weights.
        force: Replace the pipeline in the output folder.
    """
    started = time.perf_counter()
    for option, folder in (("vae", vae), ("denoiser", denoiser), ("classifier", classifier)):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"--{option}: there is no folder {str(folder)!r}.")
    _check_output_folder(output, force)

    from .assembly import assemble_pipeline
    from .atomic import atomic_folder

    pipe = assemble_pipeline(vae, denoiser, classifier, class_names or None, half=dtype == "float16")
    with atomic_folder(output) as folder:
        pipe.save_pretrained(folder)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"{output}: a pipeline of {size / 1e6:.1f} MB in {dtype}, {time.perf_counter() - started:.1f} s.")


def evaluate(
    model: tyro.conf.Positional[str | None] = None,
    output: Path = Path("metrics.json"),
    name: str = "default",
    num_images: int = 10_000,
    guidance_scale: tuple[float, ...] = (),
    scheduler: tuple[str, ...] = (),
    num_inference_steps: tuple[int, ...] = (),
    guidance_interval: tuple[float, float] | None = None,
    cfg_scale: float = 1.0,
    eta: float = 0.0,
    guidance_rescale: float = 0.0,
    seed: int = 0,
    dataset_name: str = "ylecun/mnist",
    image_column: str = "image",
    label_column: str = "label",
    judge: Path | None = None,
    classification_accuracy_score: bool = False,
    chunk_size: int = 500,
    cache_dir: Path | None = None,
    device: str | None = None,
    force: bool = False,
) -> None:
    """Draw many images and measure them with a judge that never guides.

    Several scales, schedulers or numbers of steps make a sweep over all combinations. Finished runs and drawn images
    are kept, so the same command continues an interrupted one. Under torchrun, the processes share the drawing.

    Example: mnist-guided evaluate runs/pipeline --guidance_scale 1 2 4 --num_images 2000 --output sweep.jsonl

    Args:
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        output: File to add the run to: .json, or .jsonl for one line a run. All other runs in it stay.
        name: Name of the run in that file; of a sweep, the part before the slash.
        num_images: Images of a run, the classes in turn.
        guidance_scale: One or several; the pipeline's own if left out.
        scheduler: Name of one or several diffusers schedulers; the pipeline's own if left out.
        num_inference_steps: One or several; the pipeline's own if left out.
        guidance_interval: Lowest and highest sigma / alpha at which the classifier guides; the pipeline's own if left
            out.
        cfg_scale: Classifier-free weight, for a class-conditional denoiser; 1 is off.
        eta: Stochasticity of DDIM, from 0 to 1.
        guidance_rescale: How far the spread of guided predictions is brought back, from 0 to 1.
        seed: Every image has a random generator of its own, made from the seed, its class and its number.
        dataset_name: Hub id or folder of the data set that the pipeline was trained on.
        image_column: Column of the images.
        label_column: Column of the classes.
        judge: Folder of a judge, from train_judge.py; the one shipped with the package if left out.
        classification_accuracy_score: Also train a classifier on the images alone and test it on real ones.
        chunk_size: Images drawn at a time.
        cache_dir: Folder where drawn images are kept; below ~/.cache if left out. It can be deleted at any time.
        device: Where to compute, such as cpu or cuda; a CUDA device where there is one, else the CPU, if left out.
        force: Measure runs again that are in the output already.
    """
    if model is not None:
        _check_pipeline_folder(model)
    if output.suffix not in (".json", ".jsonl"):
        raise ValueError(f"--output {str(output)!r} must end in .json, or in .jsonl for one line a run.")
    _check_writable(output.parent)
    if judge is not None and not (judge / "config.json").is_file():
        raise FileNotFoundError(f"--judge {str(judge)!r} has no config.json: it is not the folder of a judge.")
    if find_spec("torchmetrics") is None:
        raise ValueError("evaluate needs torchmetrics: pip install 'mnist-guided-pipeline[evaluation]'.")

    from .data import load_images
    from .evaluation.judge import Judge, load_judge
    from .evaluation.records import read_runs
    from .evaluation.report import render_view
    from .evaluation.run import Bench, grid, measure_runs
    from .evaluation.sampling import SamplingSettings, start_processes

    base = SamplingSettings(
        num_images,
        seed,
        guidance_interval=guidance_interval,
        cfg_scale=cfg_scale,
        eta=eta,
        guidance_rescale=guidance_rescale,
    )
    runs = grid(base, scheduler, num_inference_steps, guidance_scale, name)
    read_runs(output)  # a file that cannot be added to is found before the work
    state = start_processes()
    with state.main_process_first():
        train, test = (
            load_images(dataset_name, split, image_column=image_column, label_column=label_column)
            for split in ("train", "test")
        )
    if device is None and state.num_processes > 1:
        device = str(state.device)
    pipe = _load_pipeline(model, device)
    network = (load_judge() if judge is None else Judge.from_pretrained(judge)).to(pipe.device)
    names = {"model": model, "judge": None if judge is None else str(judge), "dataset_name": dataset_name}
    bench = Bench(network, train, test, names, classification_accuracy_score)
    records = measure_runs(pipe, runs, bench, output, cache_dir, chunk_size, again=force)
    if state.is_main_process:
        print(render_view(records, name))
    state.wait_for_everyone()
    state.destroy_process_group()


def figure(
    name: tyro.conf.Positional[Literal["scheduler-table"]],
    model: str | None = None,
    output: Path = Path("metrics.json"),
    num_images: int = 1_000,
    seed: int = 0,
    dataset_name: str = "ylecun/mnist",
) -> None:
    """Measure what a figure shows, file it, and print it.

    scheduler-table: every supported scheduler, its error with exact networks at 10, 25 and 50 steps, and what it makes
    of a trained pipeline at 10 and 25 steps.

    Example: mnist-guided figure scheduler-table --output metrics.json

    Args:
        name: Which figure.
        model: Folder or Hub id of a pipeline; the one shipped with the package if left out.
        output: File of measurements to add it to; all other runs in it stay.
        num_images: Images of a setting, the classes in turn.
        seed: Of the images and of the exact networks' noise.
        dataset_name: Hub id or folder of the data set that the pipeline was trained on.
    """
    if model is not None:
        _check_pipeline_folder(model)
    _check_writable(output.parent)
    missing = [package for package in ("scipy", "torchmetrics", "torchsde") if find_spec(package) is None]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}: pip install 'mnist-guided-pipeline[test]'.")

    from .data import load_images
    from .evaluation.fingerprints import pipeline_fingerprint
    from .evaluation.judge import load_judge
    from .evaluation.records import machine, read_runs, versions, write_run
    from .evaluation.report import render_view
    from .evaluation.scheduler_table import measure_schedulers

    read_runs(output)
    judge, pipe = load_judge(), _load_pipeline(model, None)
    real = judge.features(load_images(dataset_name, "test").images)
    table = measure_schedulers(pipe, judge, real, num_images, seed)
    record = {
        "command": f"mnist-guided figure {name} --num_images {num_images} --seed {seed}",
        "model": {"name": "shipped" if model is None else Path(model).name, "fingerprint": pipeline_fingerprint(pipe)},
        "settings": {"num_images": num_images, "seed": seed},
        "versions": versions(),
        "machine": machine(pipe.device, 1),
        "figures": table,
    }
    write_run(output, name, record)
    print(render_view({name: record}, name, "schedulers"))


def render(
    documents: tuple[Path, ...] = (),
    metrics: Path | None = None,
    card: Path | None = None,
    repo_id: str | None = None,
    check: bool = False,
) -> None:
    """Fill the tables of Markdown files, and write a pipeline's model card, from measurements.

    Example: mnist-guided render --documents README.md --card runs/pipeline --metrics metrics.json

    Args:
        documents: Markdown files with markers, rewritten in place.
        metrics: File that evaluate wrote; the one shipped with the package if left out.
        card: Folder of a pipeline, whose README.md becomes its model card.
        repo_id: Hub id that the card's example loads.
        check: Change nothing; end with an error where a file is stale.
    """
    from .atomic import atomic_write
    from .evaluation.records import read_runs
    from .evaluation.report import render_document
    from .hub import render_model_card, write_model_card
    from .weights import METRICS_FILE

    metrics = metrics or METRICS_FILE
    for option, file in (("metrics", metrics), *(("documents", file) for file in documents)):
        if not file.is_file():
            raise FileNotFoundError(f"--{option}: there is no file {str(file)!r}.")
    if card is not None:
        _check_pipeline_folder(str(card))
    runs = read_runs(metrics)
    rendered = {file: render_document(file.read_text(), runs) for file in documents}
    if card is not None:
        rendered[card / "README.md"] = render_model_card(card, runs, repo_id)
    stale = [file for file, text in rendered.items() if not file.is_file() or file.read_text() != text]
    if check and stale:
        raise ValueError(f"{', '.join(map(str, stale))}: not what {metrics} says; run this without --check.")
    for file in stale:
        if card is not None and file == card / "README.md":
            write_model_card(card, rendered[file])
        else:
            atomic_write(file, rendered[file])
    print(f"{len(stale)} of {len(rendered)} files rendered anew from {metrics}.")


COMMANDS: dict[str, Callable[..., None]] = {
    "generate": generate,
    "assemble": assemble,
    "evaluate": evaluate,
    "figure": figure,
    "render": render,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what the user can mend ends with status 2 and one line."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS,
            prog="mnist-guided",
            description="Guided latent diffusion of handwritten digits.",
            args=arguments,
            use_underscores=True,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None


def _picture_format(output: Path) -> str | None:
    """The name that Pillow gives the format of the suffix; None where it cannot write it."""
    from PIL import Image

    name = Image.registered_extensions().get(output.suffix.lower())
    return name if name in Image.SAVE else None


def _check_picture(output: Path, force: bool) -> None:
    if _picture_format(output) not in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        raise ValueError(f"--output {str(output)!r} must end in the suffix of an image format, such as .png or .webp.")
    if output.is_dir():
        raise IsADirectoryError(f"--output {str(output)!r} is a folder; name a file, such as {output / 'digits.png'}.")
    if output.exists() and not force:
        raise FileExistsError(f"--output {str(output)!r} exists; overwrite it with --force, or name another file.")
    _check_writable(output.parent)


def _check_output_folder(output: Path, force: bool) -> None:
    """A new folder, or with ``--force`` one that holds a pipeline: nothing else is ever removed."""
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        if not force:
            raise FileExistsError(f"--output {str(output)!r} exists; replace it with --force, or name another folder.")
        if not (output / "model_index.json").is_file():
            raise FileExistsError(
                f"--output {str(output)!r} exists and holds no pipeline, so --force does not replace it; name another "
                "folder."
            )
    _check_writable(next(parent for parent in output.absolute().parents if parent.exists()))


def _check_writable(folder: Path) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"--output: there is no folder {str(folder)!r}; make it first.")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"--output: the folder {str(folder)!r} cannot be written to.")


def _check_pipeline_folder(model: str) -> None:
    """A folder must hold a pipeline; anything that cannot be a folder is left to the Hub."""
    if os.path.isdir(model):
        if not os.path.isfile(os.path.join(model, "model_index.json")):
            raise FileNotFoundError(f"--model {model!r} has no model_index.json: it is not the folder of a pipeline.")
    elif model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise FileNotFoundError(f"--model {model!r} is neither a folder nor a Hub id such as 'user/name'.")


def _load_pipeline(model: str | None, device: str | None) -> Any:
    """The pipeline on its device, in float32; the progress of sampling shows at a terminal only."""
    import torch
    from diffusers.utils import logging

    from .pipeline import ClassifierGuidedLatentPipeline
    from .weights import load_default

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device!r} cannot be used here: {error}") from error
    logging.disable_progress_bar()  # of loading, which takes a moment
    if model is None:
        pipe = load_default()
    else:
        pipe = ClassifierGuidedLatentPipeline.from_pretrained(model, use_safetensors=True)
    pipe.set_progress_bar_config(disable=None)
    return pipe.to(device)


def _scheduler_class(name: str) -> type:
    import diffusers

    from .schedulers import SUPPORTED

    if name not in SUPPORTED:
        raise ValueError(f"--scheduler {name!r} is not supported; the supported ones are {', '.join(SUPPORTED)}.")
    return getattr(diffusers, name)


def _label(text: str, names: Any) -> str | int:
    """A class name where it is one, else an index where it is a number."""
    if text not in names:
        try:
            return int(text)
        except ValueError:
            pass
    return text
