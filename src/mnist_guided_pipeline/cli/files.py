"""``mnist-guided assemble``, ``export``, ``push``, ``digits``, ``render``: folders and documents."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from .options import check_folder, check_model, check_packages

_Folder = Annotated[Path, arg(help="Folder to write.")]
_Replace = Annotated[bool, arg(help="Replace the pipeline in the output folder.")]


def assemble(
    denoiser: Path,
    output: _Folder,
    vae: Path | None = None,
    classifier: Path | None = None,
    weak_denoiser: Path | None = None,
    class_names: tuple[str, ...] = (),
    dtype: Literal["float32", "float16"] = "float32",
    force: _Replace = False,
) -> None:
    """Make one pipeline folder of the networks that the training scripts wrote.

    Example: mnist-guided assemble --vae runs/vae --denoiser runs/pair --classifier runs/pair --output runs/pipeline

    train_pair.py writes both networks into one folder: the classifier, and the denoiser in its subfolder denoiser. Give
    that folder for both.

    Args:
        denoiser: Output folder of train_denoiser.py or train_pair.py; its scheduler becomes the pipeline's.
        vae: Output folder of train_vae.py or train_decoder.py; left out for networks trained on pixels.
        classifier: Output folder of train_classifier.py or train_pair.py; left out for a pipeline without guidance.
        weak_denoiser: Output folder of train_denoiser.py, smaller or trained for less, for --autoguidance_scale.
        class_names: Name of each class, in label order; 0 1 2 ... if left out.
        dtype: Floating-point type of the saved weights.
    """
    started = time.perf_counter()
    steps = {"vae": vae, "denoiser": denoiser, "classifier": classifier, "weak_denoiser": weak_denoiser}
    for option, folder in steps.items():
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"--{option}: there is no folder {str(folder)!r}.")
    check_folder(output, force)

    from ..storage.assemble import assemble_pipeline, keep_recipes
    from ..storage.atomic import atomic_folder

    pipe = assemble_pipeline(vae, denoiser, classifier, class_names or None, dtype == "float16", weak_denoiser)
    with atomic_folder(output) as folder:
        pipe.save_pretrained(folder)
        keep_recipes(folder, steps)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"{output}: a pipeline of {size / 1e6:.1f} MB in {dtype}, {time.perf_counter() - started:.1f} s.")


def export(
    output: _Folder,
    model: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    force: _Replace = False,
) -> None:
    """Write a pipeline that loads where this package is not installed.

    Example: mnist-guided export --model runs/pipeline --output runs/exported

    DiffusionPipeline.from_pretrained(folder, trust_remote_code=True) loads it. That runs the code in it.

    Args:
        model: Folder of a pipeline; the one shipped with the package if left out.
    """
    check_folder(output, force)
    if model is not None and not model.is_dir():
        raise FileNotFoundError(f"--model: there is no folder {str(model)!r}.")
    check_model(None if model is None else str(model))

    from ..storage.export import export_pipeline
    from ..weights import DEFAULT_FOLDER

    export_pipeline(model or DEFAULT_FOLDER, output)
    print(f"{output}: loads with DiffusionPipeline.from_pretrained(..., trust_remote_code=True).")


def push(
    model: Annotated[Path, arg(metavar="FOLDER")],
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
) -> None:
    """Upload a pipeline, or a network that a training script made, to the Hugging Face Hub.

    Example: mnist-guided push --model runs/pipeline --repo_id user/digits --private

    Only the model goes: weights, configs, train_config.json, metrics.json, the card and pictures; no checkpoints, no
    logs. The token is the one that hf auth login saved, or HF_TOKEN.

    Args:
        model: Folder of the pipeline or network.
        repo_id: Hub id such as user/digits; the repository is made where there is none.
        private: Make a new repository private.
        revision: Branch to commit to, made where there is none; main if left out.
    """
    if not model.is_dir():
        raise FileNotFoundError(f"--model: there is no folder {str(model)!r}.")

    from ..storage.push import push_folder

    print(push_folder(model, repo_id, private, revision))


def digits(output: _Folder) -> None:
    """Write scikit-learn's 1,797 handwritten digits as a data set like MNIST, with class names in words.

    Example: mnist-guided digits --output digits, then train with --dataset_name digits
    """
    check_folder(output)
    check_packages(("sklearn",), "evaluation")

    from datasets import disable_progress_bars

    from ..data.digits import NAMES, NUM_TRAIN, write_bundled_digits
    from ..storage.atomic import atomic_folder

    disable_progress_bars()  # of two small files
    with atomic_folder(output) as folder:
        write_bundled_digits(folder)
    print(f"{output}: {NUM_TRAIN} images to train on, 297 to test on, classes {', '.join(NAMES)}.")


def render(
    documents: tuple[Path, ...] = (),
    card: Path | None = None,
    repo_id: str | None = None,
    metrics: Path = Path("training/results/metrics.json"),
    check: bool = False,
) -> None:
    """Fill the tables of Markdown files, and write a pipeline's model card, from measurements.

    Without --documents and --card, in a checkout: README.md, training/RESULTS.md, the card of the shipped pipeline and
    the record that is shipped with it.

    Example: mnist-guided render --card runs/pipeline --metrics metrics.json

    Args:
        documents: Markdown files with markers, rewritten in place.
        card: Folder of a pipeline, whose README.md becomes its model card, by the run "default" of the metrics.
        repo_id: Hub id that the card's example loads.
        metrics: File that evaluate wrote.
        check: Change nothing; end with an error where a file is stale.
    """
    from ..evaluation.records import read_runs
    from ..evaluation.tables import find_runs, render_document
    from ..storage.atomic import atomic_write, write_listed
    from ..storage.card import render_model_card
    from ..weights import DEFAULT_FOLDER, METRICS_FILE

    own = not documents and card is None
    if own:
        documents, card = (Path("README.md"), Path("training/RESULTS.md")), DEFAULT_FOLDER
    for option, file in (("metrics", metrics), *(("documents", file) for file in documents)):
        if not file.is_file():
            raise FileNotFoundError(f"--{option}: there is no file {str(file)!r}.")
    runs = read_runs(metrics)
    rendered = {file: render_document(file.read_text(encoding="utf-8"), runs) for file in documents}
    if own:
        rendered[METRICS_FILE] = json.dumps({"runs": find_runs(runs, "default")}, indent=1) + "\n"
    if card is not None:
        text = render_model_card(card, find_runs(runs, "default")["default"], repo_id)
        rendered[card / "README.md"] = render_document(text, runs)
    stale = [file for file, text in rendered.items() if not file.is_file() or file.read_text(encoding="utf-8") != text]
    if check and stale:
        raise ValueError(f"{', '.join(map(str, stale))}: not what {metrics} says; run this without --check.")
    for file in stale:
        if card is not None and file == card / "README.md":
            write_listed(card, {file.name: rendered[file]})
        else:
            atomic_write(file, rendered[file])
    print(f"{len(stale)} of {len(rendered)} files rendered anew from {metrics}.")
