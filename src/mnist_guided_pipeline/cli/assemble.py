"""``mnist-guided assemble``: one pipeline folder of what the training scripts wrote."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

from .options import check_output_folder

__all__ = ["assemble"]


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
    check_output_folder(output, force)

    from ..storage.assemble import assemble_pipeline, keep_recipes
    from ..storage.atomic import atomic_folder

    pipe = assemble_pipeline(vae, denoiser, classifier, class_names or None, half=dtype == "float16")
    with atomic_folder(output) as folder:
        pipe.save_pretrained(folder)
        keep_recipes(folder, {"vae": vae, "denoiser": denoiser, "classifier": classifier})
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    print(f"{output}: a pipeline of {size / 1e6:.1f} MB in {dtype}, {time.perf_counter() - started:.1f} s.")
