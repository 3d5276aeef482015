"""Every command in the README exists, with the options and presets it is given."""

import dataclasses
import inspect
import re
import shlex
import sys
from pathlib import Path

import pytest

from mnist_guided_pipeline import cli
from mnist_guided_pipeline.training import config, presets

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SETTINGS = {
    "train_vae.py": (config.VAEConfig, presets.AUTOENCODER_PRESETS),
    "train_denoiser.py": (config.DenoiserConfig, {}),
    "train_classifier.py": (config.ClassifierConfig, {}),
    "train_gan.py": (config.GANConfig, presets.GAN_PRESETS),
    "train_decoder.py": (config.DecoderConfig, {}),
    "train_judge.py": (config.JudgeConfig, {}),
}


def commands() -> list[str]:
    """The commands of code blocks and of code in the text, one each, without what starts several processes."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:mnist-guided|python training/|training/)[^`]*)`", README)
    parts = [part.strip() for line in lines for part in line.split("&&")]
    kept = [
        re.sub(r"^.*?(?=mnist-guided|training/)", "", part)
        for part in parts
        if re.search(r"mnist-guided|training/", part)
    ]
    return sorted({command for command in kept if not command.startswith(("mnist-guided-", "training/accelerate"))})


@pytest.fixture(scope="module")
def pipeline_settings():
    sys.path.insert(0, str(ROOT / "training"))
    try:
        import train_pipeline
    finally:
        sys.path.remove(str(ROOT / "training"))
    return train_pipeline.PipelineConfig, presets.PRESETS


@pytest.mark.parametrize("command", commands())
def test_command_is_there(command, pipeline_settings):
    words = shlex.split(command)
    options = [word.split("=")[0].removeprefix("--") for word in words if word.startswith("--")]
    if words[0] == "mnist-guided":
        names = words[1:]
        table = cli.COMMANDS
        if names and names[0] in cli.GROUPS:
            table = cli.GROUPS[names.pop(0)][1]
        if not names:
            return
        assert names[0] in table
        parameters = inspect.signature(table[names[0]]).parameters
        shared = [value.default for value in parameters.values() if dataclasses.is_dataclass(value.default)]
        known = set(parameters) | {field.name for default in shared for field in dataclasses.fields(default)}
    else:
        script = ROOT / words[0]
        assert script.is_file()
        if script.name not in SETTINGS and script.name != "train_pipeline.py":
            source = script.read_text()
            assert all(re.search(rf"^    {option}: ", source, re.MULTILINE) for option in options)
            return
        settings, known_presets = pipeline_settings if script.name == "train_pipeline.py" else SETTINGS[script.name]
        known = set(inspect.signature(settings).parameters) | {"preset", "config"}
        if "--preset" in words:
            assert words[words.index("--preset") + 1] in known_presets
    assert set(options) - {"help"} <= known


def test_there_are_commands_to_check():
    assert len(commands()) > 20
