"""``mnist-guided assemble``, ``export``, ``push`` and ``digits``: folders of pipelines and of data."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from .options import check_folder, check_model, check_packages

__all__ = ["assemble", "digits", "export", "push"]

_Folder = Annotated[Path, arg(help="Folder to write.")]
_Replace = Annotated[bool, arg(help="Replace the pipeline in the output folder.")]


def assemble(
    denoiser: Path,
    output: _Folder,
    vae: Path | None = None,
    classifier: Path | None = None,
    class_names: tuple[str, ...] = (),
    dtype: Literal["float32", "float16"] = "float32",
    force: _Replace = False,
) -> None:
    """Make one pipeline folder of the networks that the training scripts wrote.

    Example: mnist-guided assemble --vae runs/vae --denoiser runs/denoiser --classifier runs/classifier
    --output runs/pipeline

    Args:
        denoiser: Output folder of train_denoiser.py; its scheduler becomes the pipeline's.
        vae: Output folder of train_vae.py; left out for networks trained on pixels.
        classifier: Output folder of train_classifier.py; left out for a pipeline without guidance.
        class_names: Name of each class, in label order; 0 1 2 ... if left out.
        dtype: Floating-point type of the saved weights.
    """
    started = time.perf_counter()
    for option, folder in (("vae", vae), ("denoiser", denoiser), ("classifier", classifier)):
        if folder is not None and not folder.is_dir():
            raise FileNotFoundError(f"--{option}: there is no folder {str(folder)!r}.")
    check_folder(output, force)

    from ..storage.assemble import assemble_pipeline, keep_recipes
    from ..storage.atomic import atomic_folder

    pipe = assemble_pipeline(vae, denoiser, classifier, class_names or None, half=dtype == "float16")
    with atomic_folder(output) as folder:
        pipe.save_pretrained(folder)
        keep_recipes(folder, {"vae": vae, "denoiser": denoiser, "classifier": classifier})
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"{output}: a pipeline of {size / 1e6:.1f} MB in {dtype}, {time.perf_counter() - started:.1f} s.")


def export(
    output: _Folder,
    model: Annotated[Path | None, arg(metavar="FOLDER")] = None,
    space: bool = False,
    force: _Replace = False,
) -> None:
    """Write a pipeline that loads where this package is not installed, or a Hugging Face Space.

    Example: mnist-guided export --model runs/pipeline --output runs/exported

    DiffusionPipeline.from_pretrained(folder, trust_remote_code=True) loads it. That runs the code in it.

    Args:
        model: Folder of a pipeline; the one shipped with the package if left out.
        space: Write a Space instead, ready to be uploaded; it starts the demo with the shipped weights.
    """
    check_folder(output, force)
    if model is not None and space:
        raise ValueError("--space starts the demo with the shipped weights; leave --model out.")
    if model is not None and not model.is_dir():
        raise FileNotFoundError(f"--model: there is no folder {str(model)!r}.")
    check_model(None if model is None else str(model))

    from ..storage.export import export_pipeline, export_space
    from ..weights import DEFAULT_FOLDER

    if space:
        export_space(output)
        print(f"{output}: a Space; upload it with: hf upload USER/NAME {output} --repo-type space")
    else:
        export_pipeline(model or DEFAULT_FOLDER, output)
        print(f"{output}: loads with DiffusionPipeline.from_pretrained(..., trust_remote_code=True).")


def push(
    model: Annotated[Path, arg(metavar="FOLDER")],
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload model",
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
        commit_message: Message of the commit.
    """
    if not model.is_dir():
        raise FileNotFoundError(f"--model: there is no folder {str(model)!r}.")

    from ..storage.push import push_folder

    print(push_folder(model, repo_id, private, revision, commit_message=commit_message))


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
