"""The command ``mnist-guided``: each subcommand is a function, its arguments the options, its docstring the help.

What the user can fix ends the program with status 2 and one line on standard error.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import tyro
from tyro.extras import SubcommandApp

from . import figures, files, studies
from .evaluate import evaluate
from .generate import demo, generate

_Commands = Mapping[str, Callable[..., None]]

_COMMANDS: _Commands = {
    "generate": generate,
    "evaluate": evaluate,
    "assemble": files.assemble,
    "export": files.export,
    "push": files.push,
    "demo": demo,
    "render": files.render,
    "digits": files.digits,
    "benchmark": studies.benchmark,
}

_GROUPS: Mapping[str, tuple[str, _Commands]] = {
    "figure": (
        "Draw one thing as a picture.",
        {
            "autoencoder": figures.autoencoder,
            "samples": figures.samples,
            "forward_process": figures.forward_process,
            "points": figures.points,
        },
    ),
    "study": (
        "Measure several things alike, file the table, and print it.",
        {
            "systems": studies.systems,
            "autoencoders": studies.autoencoders,
            "guide": studies.guide,
            "scales": studies.scales,
            "schedulers": studies.schedulers,
        },
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; what the user can fix ends with status 2 and one line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # help has characters that not every terminal can show
    named = [word for word in arguments[:2] if not word.startswith("-")]
    listing = not named or named[-1] in _GROUPS
    program = _app(_COMMANDS, listing)
    for name, (help, commands) in _GROUPS.items():
        program.command(_app(commands, listing), name=name, help=help)
    try:
        try:
            program.cli(
                prog="mnist-guided",
                description="Guided latent diffusion of handwritten digits.",
                args=arguments,
                use_underscores=True,
                config=(tyro.conf.FlagCreatePairsOff,),
            )
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None


def _app(commands: _Commands, listing: bool) -> SubcommandApp:
    """Commands under one name; a list of them shows the first line of each, the help of one all of it."""
    app = SubcommandApp()
    for name, command in commands.items():
        app.command(name=name, help=str(command.__doc__).partition("\n")[0] if listing else None)(command)
    return app
