"""``mnist-guided export``: a pipeline with its code, or a Hugging Face Space."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from .options import check_output_folder

__all__ = ["export"]


def export(
    folders: Positional[tuple[Path, ...]] = (),
    space: Path | None = None,
    force: bool = False,
) -> None:
    """Write a pipeline that loads where this package is not installed, or a Hugging Face Space.

    Example: mnist-guided export runs/pipeline runs/exported

    Args:
        folders: The pipeline's folder and the folder to write; with the second alone, the shipped pipeline is taken.
            DiffusionPipeline.from_pretrained(folder, trust_remote_code=True) loads it. That runs the code in it.
        space: Folder to write a Space to, ready to be uploaded; it starts the demo with the shipped weights.
        force: Replace the pipeline in the output folder.
    """
    if not folders and space is None:
        raise ValueError("Name the pipeline's folder and the folder to write, or give --space.")
    if len(folders) > 2:
        raise ValueError(f"Name two folders, the pipeline's and the one to write, not {len(folders)}.")
    for output in (*folders[-1:], *([] if space is None else [space])):
        check_output_folder(output, force)
    if len(folders) == 2 and not (folders[0] / "model_index.json").is_file():
        raise FileNotFoundError(f"{str(folders[0])!r} has no model_index.json: it is not the folder of a pipeline.")

    from ..storage.export import export_pipeline, export_space
    from ..weights import DEFAULT_FOLDER

    if folders:
        export_pipeline(folders[0] if len(folders) == 2 else DEFAULT_FOLDER, folders[-1])
        print(f"{folders[-1]}: loads with DiffusionPipeline.from_pretrained(..., trust_remote_code=True).")
    if space is not None:
        export_space(space)
        print(f"{space}: a Space; upload it with: hf upload USER/NAME {space} --repo-type space")
