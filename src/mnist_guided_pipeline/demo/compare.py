"""The second tab: two settings on the same seeds, so that every difference is the settings' doing."""

from __future__ import annotations

from functools import partial
from typing import Any

import gradio as gr

from .beliefs import plot_belief_in
from .controls import AT_ONCE, belief_chart, digit_picker, draw_and_judge, number_box, report_errors, sampler_controls
from .look import picture_gallery
from .request import DemoSettings


def compare_tab(pipe: Any, judge: Any) -> None:
    """Fill the tab in the ``Blocks`` that is open."""
    names = pipe.id2label
    gr.Markdown("Image for image, both sides start from the same noise: only the settings differ.", elem_classes="hint")
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            digits = digit_picker(pipe, "compare")
        with gr.Column(scale=1, min_width=280):
            with gr.Row():
                count = number_box("images of each", 8, "In a row.", "compare-count")
                seed = number_box("seed", 0, "Shared by both sides.", "compare-seed")
            button = gr.Button("Compare", variant="primary", elem_id="compare-button")
    galleries, verdicts = [], []
    with gr.Row():
        for side in "AB":
            with gr.Column(min_width=280):
                gr.Markdown(f"### {side}")
                name = side.lower()
                galleries.append(gr.HTML(label=f"Images of {side}", elem_id=f"compare-gallery-{name}", min_height=120))
                verdicts.append(gr.Markdown(elem_id=f"compare-verdict-{name}"))
    sides = []
    with gr.Row():
        for side, scale in (("A", 0.0), ("B", 3.0)):
            with gr.Column(min_width=280):
                gr.Markdown(f"### Settings of {side}")
                sides.append(sampler_controls(pipe, f"compare-{side.lower()}", scale))
    chart = belief_chart(pipe, "The guide's belief in what was asked for, averaged over the images", "compare")

    @report_errors
    def compare(
        class_labels: list[str],
        num_images: int,
        seed: int,
        scheduler_a: str,
        steps_a: int,
        guidance_a: float,
        cfg_a: float,
        scheduler_b: str,
        steps_b: int,
        guidance_b: float,
        cfg_b: float,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio hands it over
    ) -> tuple[Any, ...]:
        ordered = tuple(name for name in names.values() if name in (class_labels or ()))
        both = [
            DemoSettings(ordered, num_images, scheduler_a, steps_a, guidance_a, cfg_a, seed),
            DemoSettings(ordered, num_images, scheduler_b, steps_b, guidance_b, cfg_b, seed),
        ]

        def on_step(side: str, done: int, total: int) -> None:
            progress((done, total), desc=f"removing noise, side {side}")

        paths, said, shown = [], [], []
        for side, settings in zip("AB", both, strict=True):
            trace, images, sentence = draw_and_judge(pipe, judge, settings, partial(on_step, side))
            if trace.beliefs is not None:
                paths.append((side, trace.beliefs[:, range(len(trace.labels)), trace.labels].mean(dim=1)))
            shown.append(picture_gallery(images))
            said.append(sentence)
        return *shown, *said, plot_belief_in(paths) if paths else None

    gr.on(
        [button.click, seed.submit, count.submit],
        compare,
        [digits, count, seed, *sides[0], *sides[1]],
        [*galleries, *verdicts, chart],
        concurrency_limit=AT_ONCE,
        show_progress_on=galleries,
        api_name="compare",
    )
