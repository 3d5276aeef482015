"""What the tabs share: controls with a line for learners each, drawing and judging, and errors shown in the page."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from html import escape
from typing import Any

import gradio as gr
import torch
from PIL.Image import Image

from .look import percent
from .request import LIMITS, DemoSettings, draw, to_bytes
from .trace import Trace

AT_ONCE = 2  # calls of one kind that run at a time; others wait in the queue


def digit_picker(pipe: Any, name: str) -> gr.CheckboxGroup:
    """One button per class; several may be on."""
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


def belief_chart(pipe: Any, title: str, name: str) -> gr.Plot:
    """A title and the place of a chart under it, where there is a classifier that believes something."""
    shown = pipe.classifier is not None
    gr.Markdown(f"### {title}", visible=shown)
    return gr.Plot(show_label=False, visible=shown, elem_id=f"{name}-beliefs", elem_classes="chart")


def sampler_controls(pipe: Any, name: str, guidance_scale: float | None = None) -> list[Any]:
    """Scheduler, steps, guidance scale and classifier-free weight, in the order of ``DemoSettings``.

    They start at the pipeline's own values, the scale at ``guidance_scale`` where that is given; ``name`` begins their
    ids.
    """
    defaults = pipe.sampling_defaults
    has_classifier = pipe.classifier is not None
    own = defaults["guidance_scale"] if guidance_scale is None else guidance_scale
    guidance = gr.Slider(
        *LIMITS["guidance scale"],
        value=own if has_classifier else 0,
        step=0.1,
        label="Guidance scale",
        info="How hard the classifier pulls: 0 is off, 1 is Bayes' rule, more is surer and less varied.",
        visible=has_classifier,
        elem_id=f"{name}-guidance-scale",
    )
    weight = gr.Slider(
        *LIMITS["classifier-free weight"],
        value=defaults["cfg_scale"],
        step=0.1,
        label="Classifier-free weight",
        info="Whether the denoiser is told the digit too: at 0 only the classifier knows it, more than 1 exaggerates.",
        visible=pipe.denoiser_is_conditional,
        elem_id=f"{name}-cfg-scale",
    )
    scheduler = gr.Dropdown(
        [(found.__name__.removesuffix("Scheduler"), found.__name__) for found in pipe.compatible_schedulers],
        value=type(pipe.scheduler).__name__,
        label="Scheduler",
        info="The solver that walks from noise to image; any of them, without retraining.",
        elem_id=f"{name}-scheduler",
    )
    steps = gr.Slider(
        *LIMITS["steps"],
        value=defaults["num_inference_steps"],
        step=1,
        label="Steps",
        info="More steps follow the path more closely, and take longer.",
        elem_id=f"{name}-steps",
    )
    return [scheduler, steps, guidance, weight]


def report_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show what the visitor can fix as a message in the page, without a stack trace."""

    @functools.wraps(function)
    def wrapped(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (ValueError, TypeError) as error:
            raise gr.Error(escape(str(error)), duration=8, title="That does not work", print_exception=False) from None

    return wrapped


def draw_and_judge(
    pipe: Any, judge: Any, settings: DemoSettings, on_step: Callable[[int, int], None]
) -> tuple[Trace, list[tuple[Image, str, bool]], str]:
    """The trace; its images, each with what the judge, if any, reads in it and whether that is a miss; a sentence."""
    started = time.perf_counter()
    trace = draw(pipe, settings, on_step)
    seconds = time.perf_counter() - started
    took = f"{len(trace.noise_shares)} steps of the networks took {seconds:.2f} s."
    if judge is None:
        said = "There is no judge of such images here; the option `--judge` names one."
        return trace, [(image, "", False) for image in trace.images], f"{said} {took}"
    names = pipe.id2label
    probabilities = judge.predict(to_bytes(trace.images))
    read = probabilities.argmax(dim=1)
    comparable = judge.class_names == tuple(names.values())
    wanted = torch.tensor(trace.labels) if comparable else read
    shown = []
    for image, index, label, row in zip(trace.images, read.tolist(), wanted.tolist(), probabilities, strict=True):
        asked = "" if index == label else f", not {names[label]}"
        caption = f"judge: {judge.class_names[index]}{asked}\n{percent(float(row[index]))} sure"
        shown.append((image, caption, index != label))
    confidence = percent(float(probabilities.gather(1, wanted[:, None]).mean()))
    hits = int((read == wanted).sum())
    reading = f"The judge reads **{hits} of {len(shown)}** as asked" if comparable else "The judge knows other classes"
    sentence = f"{reading}; it is {confidence} sure on average."
    return trace, shown, f"{sentence} {took}"
