"""The third tab: a digit drawn by hand through the eyes of the VAE, the classifier and the judge."""

from __future__ import annotations

import random
from typing import Any

import gradio as gr
import torch
from PIL import Image
from torch import Tensor

from .beliefs import plot_beliefs
from .controls import AT_ONCE, told_in_page
from .drawing import like_mnist, read_canvas, read_drawing
from .look import data_url, percent, picture_columns
from .request import DemoSettings, draw, to_bytes

__all__ = ["draw_tab"]

_SHOWN_LEVELS = 7
_CANVAS = """<canvas width="280" height="280" role="img" aria-label="A black square to draw a digit on"></canvas>"""

# The value is the canvas as a data URL, and empty for an empty canvas. It needs neither WebGL nor a library.
_SCRIPT = """
const canvas = element.querySelector("canvas"), pen = canvas.getContext("2d");
let drawing = false, sent = "";
const wipe = () => { pen.fillStyle = "#000"; pen.fillRect(0, 0, canvas.width, canvas.height); };
const at = (event) => {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
};
wipe();
canvas.addEventListener("pointerdown", (event) => {
  drawing = true;
  canvas.setPointerCapture(event.pointerId);
  pen.strokeStyle = "#fff"; pen.lineWidth = 24; pen.lineCap = pen.lineJoin = "round";
  pen.beginPath(); pen.moveTo(...at(event)); pen.lineTo(...at(event)); pen.stroke();
});
canvas.addEventListener("pointermove", (event) => { if (drawing) { pen.lineTo(...at(event)); pen.stroke(); } });
const finish = () => {
  if (!drawing) return;
  drawing = false;
  sent = canvas.toDataURL("image/png");
  props.value = sent;
  trigger("input");
};
canvas.addEventListener("pointerup", finish);
canvas.addEventListener("pointercancel", finish);
watch("value", () => {
  if (props.value === sent) return;
  sent = props.value || "";
  wipe();
  if (!sent) return;
  const picture = new Image();
  picture.onload = () => pen.drawImage(picture, 0, 0);
  picture.src = sent;
});
"""


def draw_tab(pipe: Any, judge: Any) -> None:
    """Fill the tab in the ``Blocks`` that is open; the pipeline must have a VAE and a classifier."""
    names = pipe.id2label
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            gr.Markdown("Draw with the mouse or a finger; every stroke is read at once.", elem_classes="hint")
            canvas = gr.HTML(
                "",
                html_template=_CANVAS,
                js_on_load=_SCRIPT,
                elem_id="draw-canvas",
                elem_classes="pad",
                label="Drawing",
            )
            with gr.Row():
                clear = gr.Button("Clear", elem_id="draw-clear", min_width=100)
                example = gr.Button("Example", elem_id="draw-example", min_width=100)
        with gr.Column(scale=3, min_width=280):
            verdict = gr.Markdown("Nothing drawn yet.", elem_id="draw-verdict")
            pictures = gr.HTML(elem_id="draw-pictures")
    with gr.Column(visible=False) as noise_box:
        gr.Markdown("### The classifier's view as noise is added")
        gr.Markdown(
            "The guide reads latents at every noise level. A sure reading fades as noise covers the digit; where the "
            "curve starts to rise from the right is where guidance begins to have a say.",
            elem_classes="hint",
        )
        strip = gr.HTML(elem_id="draw-strip")
        gr.Markdown("### What the guide believes, averaged over noises")
        chart = gr.Plot(show_label=False, elem_id="draw-beliefs", elem_classes="chart")
    outputs = [verdict, pictures, noise_box, strip, chart]

    @told_in_page
    def read(url: str | None) -> tuple[Any, ...]:
        if not url:
            return "Nothing drawn yet.", "", gr.Column(visible=False), "", None
        image = like_mnist(read_canvas(url))
        seen = read_drawing(pipe, image)
        of_image, of_reconstruction = judge.predict(to_bytes([image, seen.reconstruction]))
        shown = [
            ("as MNIST would have it", [("your digit, scaled and centred", image)]),
            ("after the VAE", [("what the VAE keeps of it", seen.reconstruction)]),
            *_latent_columns(seen.latent),
        ]
        told = (
            f"The judge reads {_top(of_image, judge.class_names)} in your drawing, and "
            f"{_top(of_reconstruction, judge.class_names)} in what the VAE makes of it."
        )
        last = len(seen.noised) - 1
        steps = sorted({round(step) for step in torch.linspace(0, last, min(_SHOWN_LEVELS, last + 1)).tolist()})
        noised = [
            (f"{100 * seen.noise_shares[step]:.0f}\u00a0% noise", [("the noisy latent, decoded", seen.noised[step])])
            for step in steps
        ]
        figure = plot_beliefs(
            seen.beliefs, [100 * share for share in seen.noise_shares], list(names.values()), None, "noise, %"
        )
        return told, picture_columns(shown), gr.Column(visible=True), picture_columns(noised), figure

    @told_in_page
    def make_example() -> str:
        label, seed = random.choice(list(names.values())), random.randrange(10_000)
        defaults = pipe.sampling_defaults
        settings = DemoSettings(
            (label,),
            1,
            type(pipe.scheduler).__name__,
            defaults["num_inference_steps"],
            defaults["guidance_scale"],
            1.0,
            seed,
        )
        return data_url(draw(pipe, settings).images[0].resize((280, 280), Image.Resampling.NEAREST))

    quiet = {"show_progress_on": verdict, "concurrency_limit": AT_ONCE, "concurrency_id": "drawing"}
    canvas.input(read, [canvas], outputs, trigger_mode="always_last", api_name="read", **quiet)
    for button, change in ((example, make_example), (clear, lambda: "")):
        changed = button.click(change, None, [canvas], api_name=False, **quiet)
        changed.success(read, [canvas], outputs, api_name=False, **quiet)


def _latent_columns(latent: Tensor) -> list[tuple[str, list[tuple[str, Image.Image]]]]:
    """A picture each channel of a latent (C, H, W), or one of a bar each number of (D,), with -3 black and 3 white."""
    grey = ((latent.clamp(-3, 3) + 3) / 6 * 255).round().to(torch.uint8).numpy()
    if latent.ndim == 1:
        return [(f"the latent, {len(latent)} numbers", [("the latent, a bar a number", Image.fromarray(grey[None]))])]
    return [
        (f"latent channel {index + 1}", [(f"channel {index + 1} of the latent", Image.fromarray(channel))])
        for index, channel in enumerate(grey)
    ]


def _top(probabilities: Tensor, names: tuple[str, ...]) -> str:
    """The likeliest class, and the next one where there is doubt."""
    values, indices = probabilities.topk(2)
    told = f"**{names[indices[0]]}** ({percent(float(values[0]))})"
    return told if values[1] < 0.05 else f"{told} or {names[indices[1]]} ({percent(float(values[1]))})"
