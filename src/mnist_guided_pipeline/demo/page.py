"""The page: a title and the tabs."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ..evaluation.judge import load_judge
from ..sampling.networks import needs_posterior, sample_shape
from .compare import compare_tab
from .draw import draw_tab
from .generate import generate_tab

_TITLE = """# Digits on demand
A **denoiser** turns noise into a digit step by step, and a **classifier** that can read through the noise guides it
towards the digit you ask for. A **judge**, a network that took no part, says what came out.
"""


def who_has_the_label(pipe: Any) -> str:
    """Which network is given the digit at the pipeline's own defaults, in a sentence."""
    if pipe.classifier is None:
        return "There is no classifier here: the denoiser is told which digit is wanted."
    if not pipe.denoiser_is_conditional:
        return "Only the classifier knows which digit is wanted; the denoiser knows no digits."
    if pipe.sampling_defaults["cfg_scale"] > 0:
        return "Both know which digit is wanted: the denoiser is told it, and the classifier sharpens what comes of it."
    belief = (
        "is told what the classifier believes" if needs_posterior(pipe.denoiser) else "has the digit hidden from it"
    )
    return f"Only the classifier knows which digit is wanted; the denoiser {belief}."


def build_demo(pipe: Any, judge: Any | None = None, model: str | None = None) -> gr.Blocks:
    """The page of a pipeline, which is only read. Launch it with the look of ``look.launch_options()``.

    The judge is the shipped one if None, where the images are of its shape. ``model`` is the folder or Hub id that the
    pipeline came from, for the command line that the page shows.

    Raises:
        ValueError: the pipeline makes no images, or has no classes, or the judge reads others.
    """
    shape = pipe.image_shape
    if shape is None:
        raise ValueError(
            f"This pipeline has no VAE and samples of shape {sample_shape(pipe.denoiser)}, so it makes no images to "
            "show; use one with a VAE."
        )
    if judge is None:
        shipped = load_judge()
        judge = shipped if shipped.image_shape == shape else None
    elif judge.image_shape not in (None, shape):
        raise ValueError(f"The judge reads images of shape {judge.image_shape}, the pipeline makes those of {shape}.")
    if not pipe.id2label:
        raise ValueError(
            "This pipeline has no classes to ask for; use one with a classifier or a conditional denoiser."
        )
    with gr.Blocks(title="Guided digits", analytics_enabled=False) as page:
        gr.Markdown(f"{_TITLE}\n{who_has_the_label(pipe)}")
        with gr.Tab("Generate"):
            generate_tab(pipe, judge, model)
        with gr.Tab("Compare"):
            compare_tab(pipe, judge)
        if pipe.vae is not None and pipe.classifier is not None:
            with gr.Tab("Draw a digit"):
                draw_tab(pipe, judge)
    return page
