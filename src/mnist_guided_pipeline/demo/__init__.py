"""A page in the browser to play with guidance: generate, compare two settings, draw a digit.

One file per tab; ``request.py`` and ``trace.py`` do the work and do not know Gradio, which the extra ``demo`` brings.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import gradio as gr

__all__ = ["build_demo", "check_demo_installed"]


def build_demo(pipe: Any | None = None, judge: Any | None = None, model: str | None = None) -> gr.Blocks:
    """The page. Launch it with the look of ``look.launch_options()``.

    Args:
        pipe: a ``ClassifierGuidedLatentPipeline`` that makes images; the shipped one if None. It is only read.
        judge: an ``evaluation.judge.Judge``; the shipped one if None.
        model: the folder or Hub id that ``pipe`` came from, for the command line that the page shows.

    Raises:
        ValueError: Gradio is not installed, or the pipeline makes no images of named classes.
    """
    check_demo_installed()
    from .page import build_page

    if pipe is None:
        from ..storage.pipelines import load_default

        pipe = load_default()
    if judge is None:
        from ..evaluation.judge import load_judge

        judge = load_judge()
    return build_page(pipe, judge, model)


def check_demo_installed() -> None:
    """Refuse, with the line that installs it, where the extra is missing.

    Raises:
        ValueError: Gradio or matplotlib is not installed.
    """
    missing = [package for package in ("gradio", "matplotlib") if find_spec(package) is None]
    if missing:
        raise ValueError(f"The demo needs {' and '.join(missing)}: pip install 'mnist-guided-pipeline[demo]'.")
