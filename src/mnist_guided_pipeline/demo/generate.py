"""The first tab: images of a digit, the way each came about, and what the guide believed meanwhile."""

from __future__ import annotations

from typing import Any

import gradio as gr
import torch
from matplotlib.figure import Figure

from .beliefs import plot_beliefs
from .controls import AT_ONCE, belief_chart, digit_picker, draw_and_judge, number_box, report_errors, sampler_controls
from .look import picture_columns, picture_gallery
from .request import DemoSettings, command_line
from .trace import Trace, spread

_SHOWN_STEPS = 8
_SELECT = """
element.addEventListener("click", (event) => {
  const chosen = event.target.closest("button[data-index]");
  if (!chosen) return;
  for (const button of element.querySelectorAll("button[data-index]")) button.ariaPressed = button === chosen;
  trigger("select", { index: Number(chosen.dataset.index) });
});
"""
_SCROLL = """() => {
  if (window.innerWidth < 700) document.getElementById("generate-gallery").scrollIntoView({ behavior: "smooth" });
}"""
_KEPT_SECONDS = 3600  # how long a visitor's last trace stays in memory


def generate_tab(pipe: Any, judge: Any, model: str | None) -> None:
    """Fill the tab in the ``Blocks`` that is open."""
    names = pipe.id2label
    trace_state = gr.State(None, time_to_live=_KEPT_SECONDS)
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            digits = digit_picker(pipe, "generate")
            with gr.Row():
                count = number_box("images of each", 8, "In a row.", "generate-count")
                seed = number_box("seed", 0, "Same seed, same images.", "generate-seed")
            button = gr.Button("Generate", variant="primary", elem_id="generate-button")
            sampler = sampler_controls(pipe, "generate")
        with gr.Column(scale=3, min_width=280):
            gallery = gr.HTML(
                "",
                js_on_load=_SELECT,
                label="Images, and what the judge reads in them",
                elem_id="generate-gallery",
                min_height=210,
            )
            verdict = gr.Markdown("Choose a digit and press Generate.", elem_id="generate-verdict")
            command = gr.Markdown(elem_classes=["hint", "command"])
            with gr.Column(visible=False) as path_box:
                gr.Markdown("### How it came about")
                chosen = gr.Markdown(elem_classes="hint", elem_id="generate-chosen")
                strip = gr.HTML(elem_id="generate-path")
                chart = belief_chart(pipe, "What the guide believes at each step", "generate")

    @report_errors
    def generate(
        class_labels: list[str],
        num_images: int,
        seed: int,
        scheduler: str,
        steps: int,
        guidance_scale: float,
        cfg_scale: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio hands it over
    ) -> tuple[Any, ...]:
        ordered = tuple(name for name in names.values() if name in (class_labels or ()))
        settings = DemoSettings(ordered, num_images, scheduler, steps, guidance_scale, cfg_scale, seed)
        trace, shown, said = draw_and_judge(
            pipe, judge, settings, lambda done, total: progress((done, total), desc="removing noise", unit="steps")
        )
        line = f"The same in a terminal: `{command_line(pipe, settings, model)}`"
        page = picture_gallery(shown, selected=0)
        return page, said, line, trace, gr.Column(visible=True), *_path(pipe, trace, 0, names)

    @report_errors
    def choose(trace: Trace | None, event: gr.EventData) -> tuple[Any, ...]:
        if trace is None or event.index >= len(trace.images):
            raise ValueError("These images are no longer in memory; press Generate again.")
        return _path(pipe, trace, event.index, names)

    drawn = gr.on(
        [button.click, seed.submit, count.submit],
        generate,
        [digits, count, seed, *sampler],
        [gallery, verdict, command, trace_state, path_box, chosen, strip, chart],
        concurrency_limit=AT_ONCE,
        show_progress_on=gallery,
        api_name="generate",
    )
    drawn.success(None, js=_SCROLL)
    gallery.select(choose, [trace_state], [chosen, strip, chart], show_progress="hidden", api_name=False)


def _path(pipe: Any, trace: Trace, index: int, names: dict[int, str]) -> tuple[str, str, Figure | None]:
    """A sentence, the denoising path of one image as pictures, and the chart of beliefs."""
    last = len(trace.noise_shares) - 1
    steps = spread(_SHOWN_STEPS, last)
    with torch.no_grad():
        seen = pipe.decode_latents(trace.samples[steps, index].to(pipe.device), "pil")
        aims = pipe.decode_latents(trace.clean[steps, index].to(pipe.device), "pil")
    columns = [
        (
            f"step {step + 1}\n{100 * trace.noise_shares[step]:.0f}\u00a0% noise",
            [(f"what the denoiser is given at step {step + 1}", given), ("the digit it predicts from that", aim)],
        )
        for step, given, aim in zip(steps, seen, aims, strict=True)
    ]
    label = trace.labels[index]
    chart = None
    if trace.beliefs is not None:
        positions = [step + 1 for step in range(last + 1)]
        chart = plot_beliefs(trace.beliefs[:, index], positions, list(names.values()), label, "step")
    sentence = (
        f"Image {index + 1} of {len(trace.images)}, a {names[label]}; select another to see its path. "
        "Upper row: the noisy latent that the networks are given, decoded. Lower row: the clean digit predicted from "
        "it, guidance included."
    )
    return sentence, picture_columns(columns), chart
