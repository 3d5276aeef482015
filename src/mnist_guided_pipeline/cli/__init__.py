"""The command ``mnist-guided``: each subcommand is a function, its arguments the options, its docstring the help.

Figures are a group of subcommands: ``mnist-guided figure NAME``. What the user can mend ends the program with status 2
and one line on standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import tyro

from . import benchmark
from .anomaly import anomaly
from .assemble import assemble
from .autoencoder_figures import (
    interpolation,
    latents,
    manifold,
    prior_samples,
    reconstructions,
)
from .autoencoder_study import autoencoders
from .cost_figure import cost_figure
from .demo import demo
from .digits import digits
from .evaluate import evaluate
from .export import export
from .gan_figures import gan_samples
from .generate import generate
from .guide_report import guide_report
from .likelihood import likelihood
from .loss_curves import loss_curves
from .noise_figures import forward_process, noise_laws
from .point_figures import points, points_animation, points_trajectory
from .point_study import point_study
from .push import push
from .render import render
from .scheduler_table import scheduler_table
from .studies import eta, mean_only, scale, spacing, steps, training_time
from .sweep import sweep
from .systems import systems
from .tune import tune

__all__ = ["main"]

Commands = dict[str, Callable[..., None]]

FIGURES: Commands = {
    "cost": cost_figure,
    "forward-process": forward_process,
    "noise-laws": noise_laws,
    "reconstructions": reconstructions,
    "prior-samples": prior_samples,
    "manifold": manifold,
    "interpolation": interpolation,
    "latents": latents,
    "loss-curves": loss_curves,
    "anomaly": anomaly,
    "gan-samples": gan_samples,
    "guide-report": guide_report,
    "points": points,
    "points-trajectory": points_trajectory,
    "points-animation": points_animation,
    "scheduler-table": scheduler_table,
    "sweep": sweep,
}

STUDIES: Commands = {
    "steps": steps,
    "eta": eta,
    "scale": scale,
    "mean-only": mean_only,
    "spacing": spacing,
    "training-time": training_time,
    "points": point_study,
    "systems": systems,
    "autoencoders": autoencoders,
}

COMMANDS: Commands = {
    "generate": generate,
    "assemble": assemble,
    "evaluate": evaluate,
    "likelihood": likelihood,
    "render": render,
    "tune": tune,
    "demo": demo,
    "digits": digits,
    "export": export,
    "push": push,
}

BENCHMARKS: Commands = {
    "cold-start": benchmark.cold_start,
    "cost": benchmark.cost,
    "plan": benchmark.plan,
    "sampling": benchmark.sampling,
    "training": benchmark.training,
}

GROUPS: dict[str, tuple[str, Commands]] = {
    "figure": ("Measure or draw one thing, and save the figure.", FIGURES),
    "benchmark": ("Time one thing beside what it is compared with, and file it.", BENCHMARKS),
    "study": ("Measure several things alike, file the table, and print it.", STUDIES),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what the user can mend ends with status 2 and one line."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    prog, description, commands = "mnist-guided", "Guided latent diffusion of handwritten digits.", COMMANDS
    if arguments and arguments[0] in GROUPS:
        group = arguments.pop(0)
        prog, (description, commands) = f"{prog} {group}", GROUPS[group]
    else:
        commands = commands | {name: _group(name, help) for name, (help, _) in GROUPS.items()}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands,
            prog=prog,
            description=description,
            args=arguments,
            use_underscores=True,
            config=(tyro.conf.FlagCreatePairsOff,),
        )
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None


def _group(name: str, help: str) -> Callable[[], None]:
    """Stands for a group in the list of commands; :func:`main` runs the group itself."""

    def group() -> None:
        pass

    group.__doc__ = f"{help} mnist-guided {name} --help lists them."
    return group
