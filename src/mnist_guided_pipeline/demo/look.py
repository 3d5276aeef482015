"""How the page looks: system fonts only, pixels as sharp squares, one column on a narrow screen.

Nothing is loaded from another host, so the page works on a laptop without a network.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

import gradio as gr
from PIL.Image import Image

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
_MONO = ("ui-monospace", "Consolas", "monospace")

_CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.pictures, .gallery { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(68px, 1fr)); }
.gallery { grid-template-columns: repeat(4, minmax(0, 1fr)); align-content: start; }
.pictures figure, .gallery figure { margin: 0; max-width: 140px; text-align: center; }
.pictures img, .gallery img { width: 100%; border-radius: 4px; display: block; margin: 0 0 4px;
  image-rendering: pixelated; }
.pictures figcaption, .gallery figcaption { font-size: 12px; line-height: 1.3; white-space: pre-line;
  color: var(--body-text-color-subdued); }
.gallery button { width: 100%; padding: 3px; border: 2px solid transparent; border-radius: 7px; cursor: pointer; }
.gallery button:hover { border-color: var(--border-color-primary); }
.gallery button:focus-visible, .gallery button[aria-pressed=true] { border-color: var(--color-accent); outline: none; }
.gallery .miss figcaption { color: #dc2626; font-weight: 600; }
.dark .gallery .miss figcaption { color: #f87171; }
.hint, .hint p { color: var(--body-text-color-subdued); font-size: 13px; margin: 0; }
.command code { white-space: pre-wrap; overflow-wrap: anywhere; }
.chart { max-width: 660px; margin: 0 !important; }
.pad canvas { width: 100%; max-width: 320px; aspect-ratio: 1; border-radius: 8px; touch-action: none; cursor: crosshair;
  background: #000; display: block; border: 1px solid var(--border-color-primary); image-rendering: pixelated; }
"""


def launch_options() -> dict[str, Any]:
    """What ``Blocks.launch`` takes for the look, and for staying off the network."""
    theme = gr.themes.Default(
        primary_hue="blue",
        neutral_hue="slate",
        font=[gr.themes.Font(name) for name in _FONTS],
        font_mono=[gr.themes.Font(name) for name in _MONO],
    ).set(
        body_text_color_subdued="*neutral_600",  # small print that can be read, on light and on dark
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        block_title_text_weight="600",
    )
    return {"theme": theme, "css": _CSS, "footer_links": [], "ssr_mode": False}


def picture_columns(columns: Sequence[tuple[str, Sequence[tuple[str, Image]]]]) -> str:
    """Pictures under one another with a caption, column beside column; the columns wrap on a narrow screen.

    Beside each picture stands the text for a reader who cannot see it.
    """
    figures = []
    for caption, pictures in columns:
        shown = "".join(f'<img src="{data_url(image)}" alt="{escape(text)}">' for text, image in pictures)
        figures.append(f"<figure>{shown}<figcaption>{escape(caption)}</figcaption></figure>")
    return f'<div class="pictures">{"".join(figures)}</div>'


def picture_gallery(pictures: Sequence[tuple[Image, str, bool]], selected: int | None = None) -> str:
    """Pictures with a caption each and whether it is a miss, which is marked; as buttons where one is ``selected``."""
    figures = []
    for index, (image, caption, miss) in enumerate(pictures):
        shown = f'<img src="{data_url(image)}" alt="image {index + 1}">'
        if selected is not None:
            pressed = str(index == selected).lower()
            shown = f'<button type="button" data-index="{index}" aria-pressed="{pressed}">{shown}</button>'
        kind = ' class="miss"' if miss else ""
        figures.append(f"<figure{kind}>{shown}<figcaption>{escape(caption)}</figcaption></figure>")
    return f'<div class="gallery">{"".join(figures)}</div>'


def percent(probability: float) -> str:
    """A probability in whole per cent, that says neither 0 nor 100 of what is not certain."""
    if probability >= 0.995:
        return ">99\u00a0%"
    return "<1\u00a0%" if probability < 0.005 else f"{100 * probability:.0f}\u00a0%"


def data_url(image: Image) -> str:
    """A picture as a PNG in a ``data:`` URL."""
    encoded = BytesIO()
    image.save(encoded, format="PNG")
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
