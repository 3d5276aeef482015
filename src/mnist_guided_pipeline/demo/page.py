"""The page: a title and the tabs."""

from __future__ import annotations

import math
from typing import Any

import gradio as gr

from ..sampling.networks import sample_shape
from .compare import compare_tab
from .draw import draw_tab
from .generate import generate_tab

__all__ = ["build_page"]

_TITLE = """# Digits on demand
A **denoiser** turns noise into a digit step by step, and a **classifier** that can read through the noise guides it
towards the digit you ask for. A **judge**, a network that took no part, says what came out.
"""


def build_page(pipe: Any, judge: Any, model: str | None) -> gr.Blocks:
    """The tabs over one pipeline, which is only read.

    Raises:
        ValueError: the pipeline makes no images, or has no classes.
    """
    shape = sample_shape(pipe.denoiser)
    if pipe.vae is None and math.prod(shape) != 28 * 28:
        raise ValueError(
            f"This pipeline has no VAE and samples of shape {shape}, so it makes no images to show; use one with a VAE."
        )
    if not pipe.id2label:
        raise ValueError(
            "This pipeline has no classes to ask for; use one with a classifier or a conditional denoiser."
        )
    with gr.Blocks(title="Guided digits", analytics_enabled=False) as page:
        gr.Markdown(_TITLE)
        with gr.Tab("Generate"):
            generate_tab(pipe, judge, model)
        with gr.Tab("Compare"):
            compare_tab(pipe, judge)
        if pipe.vae is not None and pipe.classifier is not None:
            with gr.Tab("Draw a digit"):
                draw_tab(pipe, judge)
    return page
