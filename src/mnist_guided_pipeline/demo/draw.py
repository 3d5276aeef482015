"""The third tab: a digit drawn by hand through the eyes of the VAE, the classifier and the judge.

MNIST's digits were scaled to fit 20x20 pixels, keeping their shape, and set into 28x28 with the centre of mass in the
middle (LeCun et al. 1998, http://yann.lecun.com/exdb/publis/pdf/lecun-98.pdf, section III.A). A drawing of another size
or place is foreign to every network trained on them, so it is treated the same way, in proportion to another size.
"""

from __future__ import annotations

import base64
import binascii
import random
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import gradio as gr
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ..data.posteriors import encode_images
from ..sampling.denoiser import network_levels, see
from ..sampling.noise import add_noise, noise_level
from ..seeding import keyed_generator
from .beliefs import plot_beliefs
from .controls import AT_ONCE, belief_chart, report_errors
from .look import data_url, percent, picture_columns
from .request import DemoSettings, draw, to_bytes
from .trace import believed, noise_share, spread

_LEVELS, _DRAWS = 24, 32  # noise levels of the chart, and noises averaged at each
_LARGEST, _LONGEST = 1024, 400_000  # pixels on a side; characters, of which a canvas of 280x280 takes a few thousand
_SHOWN_LEVELS = 7
_PNG = "data:image/png;base64,"
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
    channels, *size = pipe.image_shape
    if channels != 1:
        gr.Markdown("A drawing is grey, and this pipeline makes images in colour: its networks cannot read one.")
        return
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
        chart = belief_chart(pipe, "What the guide believes, averaged over noises", "draw")
    outputs = [verdict, pictures, noise_box, strip, chart]

    @report_errors
    def read(url: str | None) -> tuple[Any, ...]:
        if not url:
            return "Nothing drawn yet.", "", gr.Column(visible=False), "", None
        image = like_mnist(read_canvas(url), size)
        seen = read_drawing(pipe, image)
        shown = [
            ("as MNIST would have it", [("your digit, scaled and centred", image)]),
            ("after the VAE", [("what the VAE keeps of it", seen.reconstruction)]),
            *_latent_columns(seen.latent),
        ]
        if judge is None:
            said = f"The classifier reads {_top(seen.beliefs[0], tuple(names.values()))} in your drawing."
        else:
            of_image, of_reconstruction = judge.predict(to_bytes([image, seen.reconstruction]))
            said = (
                f"The judge reads {_top(of_image, judge.class_names)} in your drawing, and "
                f"{_top(of_reconstruction, judge.class_names)} in what the VAE makes of it."
            )
        noised = [
            (f"{100 * seen.noise_shares[step]:.0f}\u00a0% noise", [("the noisy latent, decoded", seen.noised[step])])
            for step in spread(_SHOWN_LEVELS, len(seen.noised) - 1)
        ]
        figure = plot_beliefs(
            seen.beliefs, [100 * share for share in seen.noise_shares], list(names.values()), None, "noise, %"
        )
        return said, picture_columns(shown), gr.Column(visible=True), picture_columns(noised), figure

    @report_errors
    def make_example() -> str:
        label, seed = random.choice(list(names.values())), random.randrange(10_000)
        own = {name: pipe.sampling_defaults[name] for name in ("num_inference_steps", "guidance_scale", "cfg_scale")}
        settings = DemoSettings((label,), 1, type(pipe.scheduler).__name__, seed=seed, **own)
        image = draw(pipe, settings).images[0]
        factor = 280 // max(image.size)
        return data_url(image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST))

    quiet = {"show_progress_on": verdict, "concurrency_limit": AT_ONCE, "concurrency_id": "drawing"}
    canvas.input(read, [canvas], outputs, trigger_mode="always_last", api_name="read", **quiet)
    for button, change in ((example, make_example), (clear, lambda: "")):
        changed = button.click(change, None, [canvas], api_name=False, **quiet)
        changed.success(read, [canvas], outputs, api_name=False, **quiet)


@dataclass(frozen=True)
class DrawnDigit:
    """What the networks make of an image.

    Attributes:
        reconstruction: what the VAE keeps of it.
        latent: (C, H, W) or (D,), the posterior's mean, normalised: what the denoiser would see.
        noise_shares: T numbers ``sigma / (alpha + sigma)``, rising.
        beliefs: (T, num_classes), the classifier's probabilities, averaged over noises.
        noised: T images, the latent with one noise at every level, decoded.
    """

    reconstruction: Image.Image
    latent: Tensor
    noise_shares: list[float]
    beliefs: Tensor
    noised: list[Image.Image]


def read_canvas(url: str) -> Image.Image:
    """The grey picture in a PNG ``data:`` URL from a browser; a ValueError if it is none, or very large."""
    if not isinstance(url, str) or not url.startswith(_PNG) or len(url) > _LONGEST:
        raise ValueError("The drawing could not be read; clear it and draw again.")
    try:
        image = Image.open(BytesIO(base64.b64decode(url[len(_PNG) :], validate=True)), formats=["PNG"])
        if max(image.size) > _LARGEST:
            raise ValueError(f"The drawing must be at most {_LARGEST} pixels a side, got {image.width}x{image.height}.")
        return image.convert("L")
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError("The drawing could not be read; clear it and draw again.") from error


def like_mnist(drawing: Image.Image, size: Sequence[int] = (28, 28)) -> Image.Image:
    """Scale and centre white ink on black, as MNIST did, in a frame of (height, width); without ink a ValueError."""
    box = drawing.getbbox()
    if box is None:
        raise ValueError("The canvas is empty; draw a digit first.")
    ink = drawing.crop(box)
    height, width = size
    ratio = min(20 / 28 * height / ink.height, 20 / 28 * width / ink.width)
    ink = ink.resize(
        (max(1, round(ink.width * ratio)), max(1, round(ink.height * ratio))),
        Image.Resampling.BOX if ratio < 1 else Image.Resampling.BICUBIC,
    )
    pixels = torch.frombuffer(bytearray(ink.tobytes()), dtype=torch.uint8).reshape(ink.height, ink.width).double()
    across = (pixels.sum(dim=0) * torch.arange(ink.width)).sum() / pixels.sum().clamp_min(1)
    down = (pixels.sum(dim=1) * torch.arange(ink.height)).sum() / pixels.sum().clamp_min(1)
    left, top = (
        min(max(round((whole - 1) / 2 - float(centre)), 0), whole - side)
        for centre, side, whole in zip((across, down), ink.size, (width, height), strict=True)
    )
    framed = Image.new("L", (width, height))
    framed.paste(ink, (left, top))
    return framed


@torch.no_grad()
def read_drawing(pipe: Any, image: Image.Image) -> DrawnDigit:
    """Encode a grey image of the pipeline's size, and ask the classifier as more and more noise is added to its latent.

    The noises are the same at all levels; the pipeline, which has a VAE and a classifier, is only read.
    """
    scheduler = pipe.make_scheduler(pipe.compatible_schedulers[0])
    scheduler.set_timesteps(_LEVELS, device="cpu")
    levels = network_levels(scheduler, dict(pipe.config.training_noise))
    latent = encode_images(pipe.vae, to_bytes([image]), progress=False).mean
    noise = torch.randn(_DRAWS, *latent.shape[1:], generator=keyed_generator(0, "drawing")).to(latent.device)
    steps, beliefs = [], []
    for index, timestep in reversed(list(enumerate(scheduler.timesteps))):
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(index)
        noisy = add_noise(latent, noise, noise_level(scheduler, index, timestep))
        steps.append(see(scheduler, noisy, timestep, levels))
        beliefs.append(believed(pipe.classifier, steps[-1]).mean(dim=0))
    noisy = torch.cat([latent, *(seen.sample[:1] for seen in steps)])
    reconstruction, *noised = pipe.decode_latents(noisy, "pil")
    return DrawnDigit(reconstruction, latent[0].cpu(), [*map(noise_share, steps)], torch.stack(beliefs), noised)


def _latent_columns(latent: Tensor) -> list[tuple[str, list[tuple[str, Image.Image]]]]:
    """One picture per channel of a latent (C, H, W), or one with a bar per number of (D,); -3 is black, 3 white."""
    grey = ((latent.clamp(-3, 3) + 3) / 6 * 255).round().to(torch.uint8).numpy()
    if latent.ndim == 1:
        bars = Image.fromarray(grey[None].repeat(len(grey), axis=0))
        return [(f"the latent, {len(latent)} numbers", [("the latent, one bar per number", bars)])]
    return [
        (f"latent channel {index + 1}", [(f"channel {index + 1} of the latent", Image.fromarray(channel))])
        for index, channel in enumerate(grey)
    ]


def _top(probabilities: Tensor, names: tuple[str, ...]) -> str:
    """The likeliest class, and the next one where there is doubt."""
    values, indices = probabilities.topk(2)
    first = f"**{names[indices[0]]}** ({percent(float(values[0]))})"
    return first if values[1] < 0.05 else f"{first} or {names[indices[1]]} ({percent(float(values[1]))})"
