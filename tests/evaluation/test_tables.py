"""Tables and sentences of measurements: views, documents, and the command that renders them."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from mnist_guided_pipeline.evaluation.records import write_run
from mnist_guided_pipeline.evaluation.tables import markdown_table, render_document, render_view
from mnist_guided_pipeline.storage.atomic import IntegrityError, verify_manifest, write_manifest
from mnist_guided_pipeline.storage.card import render_model_card


def share(value: float) -> dict:
    return {"value": value, "interval": [value - 0.01, value + 0.005], "num_images": 10_000}


def record(scale: float = 2.0, accuracy: float = 0.9) -> dict:
    """What a run with two classes leaves in the file."""
    distances = {"judge_fid": {"value": 0.25, "num_images": 10_000}, "judge_kid": {"value": -2e-5, "num_images": 10}}
    return {
        "command": f"mnist-guided evaluate --guidance_scale {scale:g}",
        "model": {"name": "shipped", "fingerprint": "0123456789abcdef"},
        "judge": {"name": "shipped", "fingerprint": "fedcba9876543210"},
        "dataset": {"name": "ylecun/mnist", "fingerprint": "00"},
        "settings": {
            "num_images": 10_000,
            "seed": 0,
            "scheduler": "DDIMScheduler",
            "guidance_scale": scale,
            "eta": None,
        },
        "versions": {"mnist_guided_pipeline": "0.1.0", "torch": "2.9.0", "diffusers": "0.36.0", "python": "3.12.0"},
        "machine": {"processor": "Abacus", "cores": 2, "threads": 1, "processes": 1, "device": "cpu"},
        "figures": {"accuracy": share(accuracy), "accuracy_per_class": {"zero": share(0.9), "one": share(0.99)}}
        | distances,
        "floors": {
            "judge": {"accuracy": share(0.99)},
            "real_training_images": distances,
            "vae_reconstructions": {"accuracy": share(0.98), **distances},
        },
    }


ROWS = {
    "plain": {"accuracy": 0.5, "error": {"10": 0.25, "25": 0.125}, "kinds": ["a", "b"], "count": 1234},
    "gated": [{"accuracy": share(0.8)}, {"error": {"10": 1.0}, "drawn": "at once"}],
}
RUNS = {
    "default": record(),
    "scale/1": record(1.0, 0.8),
    "scale/3": record(3.0, 0.95),
    "again/first": record(),
    "again/second": record(),
    "study": {**record(), "figures": {"rows": ROWS, "seconds": 9.4421, "list": [{"ratio": 1.0}, {"ratio": 2.0}]}},
}


def cells(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]


class TestViews:
    def test_runs_are_told_apart_by_their_settings(self):
        table = cells(render_view(RUNS, "scale"))
        assert table[0] == ["", "scale", "accuracy", "judge-FID", "judge-KID"]
        assert table[2] == ["10,000 generated", "1", "80.00 % (79.00-80.50)", "0.250", "-2.0e-05"]
        assert [row[0] for row in table[4:]] == [
            "*10,000 VAE reconstructions of test images*",
            "*10,000 real training images*",
            "*10,000 real test images, by the judge*",
        ]
        assert [row[0] for row in cells(render_view(RUNS, "again"))[2:4]] == ["first", "second"]  # else by their names

    def test_chosen_columns(self):
        table = cells(render_view(RUNS, "default", "table", ["judge_fid"]))
        assert table[0] == ["", "judge-FID"] and len(table) == 5  # the judge has no distance

    def test_provenance(self):
        text = render_view(RUNS, "scale", "provenance")
        for part in ("`mnist-guided evaluate --guidance_scale 1` and 1 more like it", "seed 0", "num_images 10000"):
            assert part in text
        for part in ("scheduler DDIM", "networks `0123456789abcdef`", "Abacus", "torch 2.9.0"):
            assert part in text
        assert "guidance_scale 3" not in text

    def test_rows(self):
        title, _, *rows = cells(render_view(RUNS, "study", "rows"))
        assert title == ["", "accuracy", "error, 10", "error, 25", "kinds", "count", "drawn"]
        assert rows == [
            ["plain", "50.00 %", "0.25", "0.125", "a, b", "1,234", ""],
            ["gated", "80.00 % (79.00-80.50)", "", "", "", "", ""],
            ["gated", "", "1", "", "", "", "at once"],
        ]
        assert cells(render_view(RUNS, "study", "list"))[2:] == [["1"], ["2"]]
        assert cells(render_view(RUNS, "default", "accuracy_per_class"))[2] == ["zero", "90.00 % (89.00-90.50)"]
        assert render_view(RUNS, "study", "seconds") == "9.442"

    @pytest.mark.parametrize(
        ("name", "view", "message"),
        [
            ("nothing", "table", "no run or group 'nothing'; it has default"),
            ("default", "colour", "'default' has no 'colour'; there are table, provenance, accuracy"),
            ("scale", "accuracy", "needs one run; 'scale' is a group of 2"),
        ],
    )
    def test_errors(self, name, view, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            render_view(RUNS, name, view)

    def test_columns_line_up(self):
        assert markdown_table([["a", "bcde"], ["fg", "1"]]) == "| a   | bcde |\n| :-- | ---: |\n| fg  |    1 |"


TEXT = (
    "Before\n\n<!-- metrics:default table judge_fid -->\nold\n<!-- /metrics -->\n\n"
    "It reaches <!-- metrics:default accuracy -->12 %<!-- /metrics -->, they say.\n"
)


class TestDocument:
    def test_fills_blocks_and_sentences(self):
        text = render_document(TEXT, RUNS)
        table = render_view(RUNS, "default", "table", ["judge_fid"])
        assert f"<!-- metrics:default table judge_fid -->\n{table}\n<!-- /metrics -->" in text
        assert "reaches <!-- metrics:default accuracy -->90.00 % (89.00-90.50)<!-- /metrics -->, they" in text
        assert text.startswith("Before\n\n")
        assert render_document(text, RUNS) == text

    def test_a_marker_without_an_end(self):
        with pytest.raises(ValueError, match="has no end"):
            render_document("<!-- metrics:default -->\ntext", RUNS)


class TestModelCard:
    @pytest.fixture
    def card(self, tiny_pipeline_folder) -> str:
        return render_document(render_model_card(tiny_pipeline_folder, record(), str(tiny_pipeline_folder)), RUNS)

    def test_front_matter(self, card):
        data = ModelCard(card).data
        assert (data.license, data.library_name) == ("apache-2.0", "diffusers")
        assert data.pipeline_tag == "unconditional-image-generation"
        assert data.datasets == ["ylecun/mnist"]
        results = {result.metric_type: result for result in data.eval_results}
        assert set(results) == set(data.metrics) == {"accuracy", "judge_fid"}
        assert results["accuracy"].metric_value == 0.9
        assert "model-index" in yaml.safe_load(card.split("---")[1])

    def test_body(self, card, tiny_pipeline_folder, tmp_path):
        for view in ("table", "accuracy_per_class", "provenance"):
            assert render_view(RUNS, "default", view) in card
        assert "| denoiser | MLPDenoiser |" in card
        assert "the classifier sharpens it" in card and "the classifier alone knows" not in card
        assert "{{" not in card and "{%" not in card
        assert "](samples.png)" not in card  # there is none beside it
        assert not re.search(r"\]\((?!https://)", card), "a relative link leads nowhere on the Hub"
        folder = shutil.copytree(tiny_pipeline_folder, tmp_path / "pipeline")
        (folder / "samples.png").write_bytes(b"")
        assert "](samples.png)" in render_model_card(folder, record())

    def test_its_example_runs_as_pasted(self, card, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
            exec(compile(code, "card", "exec"), {})
        assert (tmp_path / "three.png").is_file()

    def test_errors(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="not the folder of a pipeline"):
            render_model_card(tmp_path, record())


class TestCommand:
    @pytest.fixture
    def workplace(self, tmp_path, tiny_pipeline_folder) -> Path:
        for name, run in RUNS.items():
            write_run(tmp_path / "metrics.json", name, run)
        (tmp_path / "README.md").write_text(TEXT)
        write_manifest(shutil.copytree(tiny_pipeline_folder, tmp_path / "pipeline"))
        return tmp_path

    @pytest.fixture
    def words(self, workplace) -> list[object]:
        files = ["--documents", workplace / "README.md", "--card", workplace / "pipeline"]
        return ["render", *files, "--metrics", workplace / "metrics.json"]

    def test_writes_and_checks(self, workplace, words, typed, refused, capsys):
        assert "README.md" in refused(*words, "--check")
        assert (workplace / "README.md").read_text() == TEXT
        typed(*words)
        typed(*words, "--check")
        assert "0 of 2" in capsys.readouterr().out
        assert verify_manifest(workplace / "pipeline", ["README.md"])
        write_run(workplace / "metrics.json", "default", record(accuracy=0.91))
        refused(*words, "--check")

    def test_a_damaged_pipeline_gets_no_new_manifest(self, workplace, words, refused):
        weights = next((workplace / "pipeline").rglob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        refused(*words)
        with pytest.raises(IntegrityError):
            verify_manifest(workplace / "pipeline")

    def test_missing_files(self, tmp_path, refused):
        assert "there is no file" in refused("render", "--metrics", tmp_path / "metrics.json")
