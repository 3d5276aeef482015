"""README, RESULTS and the model card: what was measured is rendered, the commands exist, the links lead somewhere."""

import contextlib
import io
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest

from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.evaluation.tables import MARKER
from mnist_guided_pipeline.sampling.schedulers import SUPPORTED
from mnist_guided_pipeline.storage.atomic import verify_manifest
from mnist_guided_pipeline.weights import DEFAULT_FOLDER

ROOT = Path(__file__).parents[1]
DOCUMENTS = {name: (ROOT / name).read_text() for name in ("README.md", "training/RESULTS.md")}
README = DOCUMENTS["README.md"]


def test_everything_rendered_is_current(monkeypatch):
    monkeypatch.chdir(ROOT)
    main(["render", "--check"])
    assert verify_manifest(DEFAULT_FOLDER)


def test_no_measured_number_is_typed():
    for name, text in DOCUMENTS.items():
        typed = MARKER.sub("", text)
        assert not re.search(r"\|\s*\d+\.\d+( %)?\s*\|", typed), name
        assert not re.search(r"\d %", typed.replace("1 % for a faithful", "").replace("of 95 %", "")), name
    assert f"under any of {len(SUPPORTED)}" in README


def test_a_person_reads_it_to_the_end():
    assert len(README.splitlines()) <= 200


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_somewhere(name):
    targets = re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[name])
    for target in targets:
        file, _, anchor = target.partition("#")
        if file.startswith("https://"):
            continue
        assert (ROOT / name).parent.joinpath(file).exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", DOCUMENTS[file], re.MULTILINE)
            assert anchor in [title.lower().replace(" ", "-") for title in titles], target


def test_its_python_runs_as_pasted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "three.png").is_file()


def commands() -> list[str]:
    """The commands of code blocks, and of code in the text; the second column of a table leaves out the program."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
    parts = [part.strip() for line in blocks.splitlines() for part in line.split("&&")]
    parts += re.findall(r"`([^`\n]+)`", README.replace("```", ""))
    for script, others in re.findall(r"`(\S+) --preset \S+` \(([^)]*)\)", README):
        parts += [f"{script} --preset {name}" for name in re.findall(r"`([\w-]+)`", others)]
    parts = [re.sub(r"^(?=(figure|study|generate|evaluate) )", "mnist-guided ", part) for part in parts]
    parts = [part.removeprefix("python ") for part in parts]
    return sorted({part for part in parts if re.match(r"mnist-guided |training/\w+\.py", part)})


@pytest.mark.parametrize("command", commands())
def test_command_exists_with_its_options(command, monkeypatch):
    program, *words = shlex.split(command)
    subcommands = [word for word in words[:2] if not word.startswith("-")] if program == "mnist-guided" else []
    monkeypatch.setenv("COLUMNS", "1000")  # no name is broken
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as end:
        if program == "mnist-guided":
            main([*subcommands, "--help"])
        else:
            monkeypatch.syspath_prepend(str(ROOT / "training"))
            monkeypatch.setattr(sys, "argv", [str(ROOT / program), "--help"])
            runpy.run_path(str(ROOT / program), run_name="__main__")
    assert end.value.code in (0, None)
    if program == "mnist-guided":  # the help is its own, not that of the group above it
        assert printed.getvalue().startswith(f"usage: {' '.join([program, *subcommands])} [-h]")
    known = set(re.findall(r"[\w-]+", printed.getvalue().replace("-", "_")))
    options = [word.replace("-", "_") for word in words if word.startswith("--")]
    presets = [words[index + 1].replace("-", "_") for index, word in enumerate(words) if word == "--preset"]
    assert {*options, *presets} <= known


def test_there_are_commands_to_check():
    assert len(commands()) > 20
