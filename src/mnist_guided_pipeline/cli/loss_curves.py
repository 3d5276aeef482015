"""``mnist-guided figure loss-curves``: how a training run went."""

from __future__ import annotations

from pathlib import Path

import tyro

from .figures import check_figure, save_figure

__all__ = ["loss_curves"]

_PANELS = {
    "loss": ("loss",),
    "reconstruction": ("reconstruction",),
    "KL": ("kl",),
    "cross-entropy": ("cross_entropy",),
    "guided denoising loss": ("score_matching",),
    "losses of both": ("discriminator_loss", "generator_loss"),
    "discriminator's output": ("logits_real", "logits_fake"),
    "R1": ("r1",),
}
"""Title of a panel, and the logged scalars it shows; a run has those of its script."""


def loss_curves(run: tyro.conf.Positional[str], output: Path, force: bool = False) -> None:
    """Draw the losses of a training run over its updates, each term by itself.

    Example: mnist-guided figure loss-curves runs/vae --output losses.png

    Args:
        run: Folder of a training run, with its history.jsonl.
        output: Picture to write.
        force: Overwrite the output.
    """
    check_figure(output, force)

    from ..figures.curves import Curve, line_panels
    from ..training.history import read_history

    events = [event for event in read_history(run) if event.get("step") is not None]
    panels: dict[str, dict[str, Curve]] = {}
    for title, names in _PANELS.items():
        curves = {}
        for name in names:
            prefix = f"{name.replace('_', ' ')}, " if len(names) > 1 else ""
            for label, key in (("training, one batch", name), ("test set", f"test/{name}")):
                found = [(event["step"], event[key]) for event in events if key in event]
                if found and any(value for _, value in found):  # a term that is off is 0 throughout
                    curves[prefix + label] = Curve(*zip(*found, strict=True))
        if curves:
            panels[title] = curves
    if not panels:
        raise ValueError(f"{run!r} has no history.jsonl with losses; give the output_dir of a training script.")
    save_figure(line_panels(panels, "updates"), output)
    print(f"{output}: {', '.join(panels)} over {events[-1]['step']:,} updates.")
