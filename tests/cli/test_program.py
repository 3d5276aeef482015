"""The program: help for every command, and one rule for paths in all of them."""

import re
import subprocess
import sys

import pytest

from mnist_guided_pipeline.cli import _COMMANDS, _GROUPS, main

LEAVES = [[name] for name in _COMMANDS] + [[group, name] for group, (_, leaves) in _GROUPS.items() for name in leaves]
PICTURES = {  # and what else each needs on its line
    "generate": [],
    "figure autoencoder": ["--model", "a/b"],
    "figure samples": ["--model", "a/b"],
    "figure forward_process": [],
    "figure points": ["--model", "a/b"],
}
FOLDERS = {"assemble": ["--denoiser", "."], "export": [], "digits": []}
MODELS = list(PICTURES)


@pytest.mark.parametrize("words", [[], *([group] for group in _GROUPS)])
def test_a_list_of_commands_has_the_first_line_of_each(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for name, command in (_GROUPS[words[0]][1] if words else _COMMANDS).items():
        assert any(name in line and command.__doc__.partition("\n")[0] in line for line in printed.splitlines())
    assert "Example" not in printed


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_every_command_explains_its_options_in_one_spelling(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"Example: mnist-guided {' '.join(words)}" in " ".join(printed.split())
    options = re.findall(r"^\W+--([a-z][\w-]*)", printed, re.MULTILINE)
    assert options and not [option for option in options if "-" in option]


def test_unknown_option(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--outptu", "a.png"])
    assert stop.value.code == 2


def test_help_ends_quietly_where_nobody_reads_and_in_any_encoding():
    command = [sys.executable, "-m", "mnist_guided_pipeline", "figure", "points", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    done = subprocess.run(
        [*command[:3], "--help"],
        capture_output=True,
        env={"PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 0 and b"generate" in done.stdout and not done.stderr


class TestPaths:
    @pytest.mark.parametrize("command", PICTURES)
    def test_pictures(self, refused, tmp_path, command):
        line = [*command.split(), *PICTURES[command]]
        for name, message in (
            ("digits.txt", "must end in .png, "),
            ("digits", "must end in .png, "),
            ("nowhere/digits.png", "there is no folder"),
        ):
            assert message in refused(*line, "--output", tmp_path / name)
        (tmp_path / "mine.png").write_text("mine")
        assert "exists; overwrite it with --force" in refused(*line, "--output", tmp_path / "mine.png")
        assert (tmp_path / "mine.png").read_text() == "mine"
        (tmp_path / "folder.png").mkdir()
        assert "is a folder" in refused(*line, "--output", tmp_path / "folder.png", "--force")

    @pytest.mark.parametrize("command", FOLDERS)
    def test_folders(self, refused, tmp_path, command):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").touch()
        line = refused(command, *FOLDERS[command], "--output", tmp_path / "mine")
        assert "exists; " in line and "name another folder" in line
        assert (tmp_path / "mine" / "thesis.tex").exists()

    @pytest.mark.parametrize("command", MODELS)
    def test_models(self, refused, tmp_path, command):
        (tmp_path / "empty").mkdir()
        output = ["--output", tmp_path / "x.png"]
        given = ["--dataset_name", "points:dino"] if command.endswith("points") else []
        for model, message in ((tmp_path / "empty", ".json: it is not"), ("./nowhere", "neither a folder nor a Hub")):
            assert message in refused(*command.split(), "--model", model, *output, *given)
        assert "nobody/nothing" in refused(*command.split(), "--model", "nobody/nothing", *output, *given)
        assert not (tmp_path / "x.png").exists()
