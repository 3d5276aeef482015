"""Runs notebooks in fresh kernels; as a program it also stores their outputs, made small.

    MNIST_DATASET=ylecun/mnist python tests/run_notebooks.py notebooks/*.ipynb

Pictures are reduced to 64 colours, which cannot be seen on grey digits and thin lines and makes them a third as large.
"""

from __future__ import annotations

import base64
import os
import sys
import time
from io import BytesIO
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
COLOURS = 64
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def run_notebook(file: Path, seconds: float, **environment: str) -> nbformat.NotebookNode:
    """Execute all cells in order, in the notebook's own folder.

    Args:
        file: the notebook; it is not written.
        seconds: time for all of it.
        environment: variables of the kernel beside this process's own.

    Raises:
        CellExecutionError: a cell failed.
        RuntimeError: one whose outputs are captured did.
        CellTimeoutError: the time is up.
    """
    notebook = nbformat.read(file, as_version=4)
    deadline = time.monotonic() + seconds
    client = NotebookClient(
        notebook,
        timeout_func=lambda cell: max(1.0, deadline - time.monotonic()),
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(file.parent)}},
    )
    client.execute(env={**os.environ, **environment})
    for output in [output for cell in notebook.cells for output in cell.get("outputs", [])]:
        if output.output_type == "error":  # under %%capture, the cell counts as done
            raise RuntimeError("\n".join(output.traceback))
    return notebook


def reduced(picture: str) -> str:
    """A base64 PNG with few colours."""
    image = Image.open(BytesIO(base64.b64decode(picture))).convert("RGB")
    encoded = BytesIO()
    few = image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(encoded, "PNG", optimize=True)
    return base64.b64encode(encoded.getvalue()).decode()


def store(notebook: nbformat.NotebookNode, file: Path) -> None:
    """Write a notebook with small pictures, and with nothing of the machine that ran it."""
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                output.data["image/png"] = reduced(output.data["image/png"])
                output.data.pop("image/jpeg", None)  # PIL shows itself in both
    nbformat.write(notebook, file)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        store(run_notebook(Path(name).resolve(), 3_600.0), Path(name))
        print(f"{name}: {Path(name).stat().st_size / 1000:.0f} kB")
