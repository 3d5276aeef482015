"""The command line of the training scripts: every field of a settings class is a flag.

``--train_batch_size`` and ``--train-batch-size`` are alike, as in diffusers' training scripts.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from typing import Any, TypeVar

from .config import TrainingConfig

__all__ = ["parse"]

Config = TypeVar("Config", bound=TrainingConfig)


def parse(
    config_class: type[Config], arguments: list[str] | None = None, presets: Mapping[str, Config] | None = None
) -> Config:
    """Read settings from the command line; what :meth:`TrainingConfig.check` refuses ends the program with status 2.

    ``--config FILE`` takes the settings of a ``train_config.json`` for defaults, ``--preset NAME`` those of a table.

    Args:
        config_class: the settings; its fields are the flags.
        arguments: the command line; that of the program if left out.
        presets: the table of ``--preset``.
    """
    import tyro

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    description = "--config FILE starts from the train_config.json of an earlier run. Flags win over it."
    if presets:
        description = f"--preset NAME starts from a table of settings: {', '.join(presets)}. {description}"
    try:
        default: Any  # None is no default to tyro, but not to its types
        default, arguments = _take_default(config_class, arguments, presets or {})
        config = tyro.cli(config_class, args=arguments, description=description, default=default)
        config.check()
        config.check_given(
            {argument[2:].partition("=")[0].replace("-", "_") for argument in arguments if argument[:2] == "--"}
        )
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from None
    return config


def _take_default(
    config_class: type[Config], arguments: list[str], presets: Mapping[str, Config]
) -> tuple[Config | None, list[str]]:
    """The settings that ``--config`` or ``--preset`` name, ``output_dir`` still to be given, and other arguments."""
    import argparse

    import tyro

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", const="")
    if presets:
        parser.add_argument("--preset", nargs="?", const="")
    found, others = parser.parse_known_args(arguments)
    preset = getattr(found, "preset", None)
    if found.config is not None and preset is not None:
        raise ValueError(f"config {found.config!r} and preset {preset!r} are both a start; leave out one of them.")
    if found.config is not None:
        try:
            with open(found.config) as file:
                default = config_class.from_json(file.read())
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"config {found.config!r} is not a train_config.json of {config_class.__name__}: {error}"
            ) from error
        default = dataclasses.replace(default, resume_from_checkpoint=None)
    elif preset is not None:
        if preset not in presets:
            raise ValueError(f"preset must be one of {', '.join(presets)}, got {preset!r}.")
        default = presets[preset]
    else:
        return None, others
    return dataclasses.replace(default, output_dir=tyro.MISSING), others
