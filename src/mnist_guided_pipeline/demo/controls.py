"""What the tabs share: the controls, with a line for learners each, and errors told in the page."""

from __future__ import annotations

import functools
from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr
import torch
from PIL.Image import Image

from .look import percent
from .request import LIMITS, to_bytes
from .trace import Trace

__all__ = ["AT_ONCE", "SamplerControls", "digit_picker", "judged", "number_box", "told_in_page"]

AT_ONCE = 2  # calls of one kind that run at a time; others wait in the queue


class SamplerControls:
    """Guidance scale, classifier-free weight where there is one, scheduler and steps.

    Args:
        pipe: whose defaults and schedulers are offered.
        name: put before each element id.
        guidance_scale: what the scale starts at; the pipeline's own if None.
    """

    def __init__(self, pipe: Any, name: str, guidance_scale: float | None = None):
        defaults = pipe.sampling_defaults
        has_classifier = pipe.classifier is not None
        own = defaults["guidance_scale"] if guidance_scale is None else guidance_scale
        self.guidance_scale = gr.Slider(
            0,
            LIMITS["guidance scale"][1],
            value=own if has_classifier else 0,
            step=0.1,
            label="Guidance scale",
            info="How hard the classifier pulls: 0 is off, 1 is Bayes' rule, more is surer and less varied.",
            visible=has_classifier,
            elem_id=f"{name}-guidance-scale",
        )
        self.cfg_scale = gr.Slider(
            0,
            LIMITS["classifier-free weight"][1],
            value=1,
            step=0.1,
            label="Classifier-free weight",
            info="The denoiser knows the digits too: 0 hides the label from it, 1 tells it, more exaggerates it.",
            visible=pipe.denoiser_is_conditional,
            elem_id=f"{name}-cfg-scale",
        )
        self.scheduler = gr.Dropdown(
            [(found.__name__.removesuffix("Scheduler"), found.__name__) for found in pipe.compatible_schedulers],
            value=type(pipe.scheduler).__name__,
            label="Scheduler",
            info="The solver that walks from noise to image; any of them, without retraining.",
            elem_id=f"{name}-scheduler",
        )
        self.steps = gr.Slider(
            *LIMITS["steps"],
            value=defaults["num_inference_steps"],
            step=1,
            label="Steps",
            info="More steps follow the path more closely, and take longer.",
            elem_id=f"{name}-steps",
        )

    def all(self) -> list[Any]:
        """In the order of ``DemoSettings``: scheduler, steps, guidance scale, classifier-free weight."""
        return [self.scheduler, self.steps, self.guidance_scale, self.cfg_scale]


def digit_picker(pipe: Any, name: str) -> gr.CheckboxGroup:
    """A button a class; several may be on."""
    names = list(pipe.id2label.values())
    return gr.CheckboxGroup(
        names,
        value=[names[min(3, len(names) - 1)]],
        label="Digits",
        info="One or more; a row of images each.",
        elem_id=f"{name}-digits",
    )


def number_box(limit: str, value: int, info: str, name: str) -> gr.Number:
    """A box for a whole number; it is checked when it is used, so that the message can say what would do."""
    return gr.Number(value, label=limit.capitalize(), info=info, elem_id=name, min_width=120)


def told_in_page(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show what the visitor can mend as a message in the page, without a stack trace."""

    @functools.wraps(function)
    def wrapped(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (ValueError, TypeError) as error:
            raise gr.Error(escape(str(error)), duration=8, title="That does not work", print_exception=False) from None

    return wrapped


def judged(trace: Trace, judge: Any, names: dict[int, str]) -> tuple[list[tuple[Image, str, bool]], str]:
    """The images with what the judge reads in each and whether that is a miss; and a sentence on all of them."""
    probabilities = judge.predict(to_bytes(trace.images))
    read = probabilities.argmax(dim=1)
    comparable = len(judge.class_names) == len(names)
    wanted = torch.tensor(trace.labels) if comparable else read
    shown = []
    for image, index, label, row in zip(trace.images, read.tolist(), wanted.tolist(), probabilities, strict=True):
        asked = "" if index == label else f", not {names[label]}"
        shown.append(
            (image, f"judge: {judge.class_names[index]}{asked}\n{percent(float(row[index]))} sure", index != label)
        )
    confidence = percent(float(probabilities.gather(1, wanted[:, None]).mean()))
    hits = int((read == wanted).sum())
    reading = f"The judge reads **{hits} of {len(shown)}** as asked" if comparable else "The judge knows other classes"
    return shown, f"{reading}; it is {confidence} sure on average."
