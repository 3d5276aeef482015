"""README and model card say what was measured: nothing typed, nothing stale, and the examples run."""

import copy
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.evaluation.records import read_runs, write_run
from mnist_guided_pipeline.evaluation.tables import MARKER, markdown_table, render_document, render_view
from mnist_guided_pipeline.storage.atomic import MANIFEST, IntegrityError, verify_manifest, write_manifest
from mnist_guided_pipeline.storage.card import render_model_card
from mnist_guided_pipeline.weights import DEFAULT_FOLDER, METRICS_FILE

README = Path(__file__).parents[1] / "README.md"


def share(value: float) -> dict:
    return {"value": value, "interval": [value - 0.01, value + 0.005], "num_images": 10_000}


def record(scale: float = 2.0, accuracy: float = 0.9) -> dict:
    """What a run with two classes leaves in the file."""
    distances = {"judge_fid": {"value": 0.25, "num_images": 10_000}, "judge_kid": {"value": -2e-5, "num_images": 10}}
    return {
        "command": "mnist-guided evaluate --name default",
        "model": {"name": "shipped", "fingerprint": "0123456789abcdef"},
        "judge": {"name": "shipped", "fingerprint": "fedcba9876543210"},
        "dataset": {"name": "ylecun/mnist", "fingerprint": "00"},
        "class_names": ["zero", "one"],
        "settings": {
            "num_images": 10_000,
            "seed": 0,
            "scheduler": "DDIMScheduler",
            "num_inference_steps": 25,
            "guidance_scale": scale,
            "guidance_interval": None,
        },
        "versions": {"mnist_guided_pipeline": "0.1.0", "torch": "2.9.0", "diffusers": "0.36.0", "python": "3.12.0"},
        "machine": {"processor": "Abacus", "cores": 2, "threads": 1, "processes": 1, "device": "cpu"},
        "figures": {
            "accuracy": share(accuracy),
            "confusion_matrix": [[9, 1], [0, 10]],
            "accuracy_per_class": {"zero": share(0.9), "one": share(0.99)},
            "judge_fid_per_class": {"zero": distances["judge_fid"], "one": distances["judge_fid"]},
            **distances,
        },
        "floors": {
            "judge": {"accuracy": share(0.99)},
            "real_training_images": distances,
            "vae_reconstructions": {"accuracy": share(0.98), **distances},
        },
    }


RUNS = {
    "default": record(),
    "study-scale/guidance_scale=1": record(1.0, 0.8),
    "study-scale/guidance_scale=3": record(3.0, 0.95),
}


class TestThisRepository:
    def test_readme_is_fresh(self):
        text = README.read_text()
        runs = read_runs(METRICS_FILE)
        assert render_document(text, runs) == text, "README.md is stale: mnist-guided render --documents README.md"

    def test_readme_types_no_table_of_figures(self):
        outside = MARKER.sub("", README.read_text())
        assert not re.search(r"\|\s*\d+\.\d+( %)?\s*\|", outside)

    def test_shipped_card_is_fresh(self):
        card = (DEFAULT_FOLDER / "README.md").read_text()
        assert card == render_model_card(DEFAULT_FOLDER, read_runs(METRICS_FILE)), "stale: mnist-guided render --card"


class TestViews:
    def test_table(self):
        lines = render_view(RUNS, "study-scale").splitlines()
        assert len(lines) == 2 + 2 + 3
        assert len({len(line) for line in lines}) == 1
        cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
        assert cells == ["10,000 generated", "DDIM", "25", "1", "80.00 % (79.00-80.50)", "0.250", "-2.0e-05"]
        assert lines[4].startswith("| *10,000 VAE reconstructions")

    def test_per_class_and_confusion(self):
        assert render_view(RUNS, "default", "per_class").splitlines()[2].split("|")[1].strip() == "zero"
        assert [
            cell.strip() for cell in render_view(RUNS, "default", "confusion").splitlines()[2].split("|")[1:-1]
        ] == [*("zero", "9", "1")]

    def test_provenance(self):
        text = render_view(RUNS, "default", "provenance")
        for part in ("`mnist-guided evaluate --name default`", "seed 0", "10,000 images", "Abacus", "torch 2.9.0"):
            assert part in text

    def test_a_figure_in_a_sentence(self):
        assert render_view(RUNS, "default", "accuracy") == "90.00 % (89.00-90.50)"

    @pytest.mark.parametrize(
        ("name", "view", "message"),
        [
            ("nothing", "table", "no run or group 'nothing'; it has default"),
            ("default", "colour", "view 'colour' is unknown; there are table"),
            ("study-scale", "accuracy", "needs one run; 'study-scale' is a group of 2"),
            ("default", "classification_accuracy_score", "has no figure 'classification_accuracy_score'; it has"),
        ],
    )
    def test_errors(self, name, view, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            render_view(RUNS, name, view)

    def test_columns_line_up(self):
        assert markdown_table([["a", "bcde"], ["fg", "1"]]) == "| a   | bcde |\n| :-- | ---: |\n| fg  |    1 |"


class TestDocument:
    TEXT = (
        "Before\n\n<!-- metrics:default -->\nold\n<!-- /metrics -->\n\n"
        "It reaches <!-- metrics:default accuracy -->12 %<!-- /metrics -->, they say.\n"
    )

    def test_fills_blocks_and_sentences(self):
        text = render_document(self.TEXT, RUNS)
        assert f"<!-- metrics:default -->\n{render_view(RUNS, 'default')}\n<!-- /metrics -->" in text
        assert "reaches <!-- metrics:default accuracy -->90.00 % (89.00-90.50)<!-- /metrics -->, they" in text
        assert text.startswith("Before\n\n")
        assert render_document(text, RUNS) == text

    def test_other_measurements_make_it_stale(self):
        runs = copy.deepcopy(RUNS)
        text = render_document(self.TEXT, runs)
        runs["default"]["figures"]["judge_fid"]["value"] += 0.01
        assert render_document(text, runs) != text

    def test_a_marker_without_an_end(self):
        with pytest.raises(ValueError, match="has no end"):
            render_document("<!-- metrics:default -->\ntext", RUNS)

    def test_plain_text_stays(self):
        assert render_document("plain\n", {}) == "plain\n"


class TestModelCard:
    @pytest.fixture
    def card(self, tiny_pipeline_folder) -> str:
        return render_model_card(tiny_pipeline_folder, RUNS, repo_id=str(tiny_pipeline_folder))

    def test_front_matter(self, card):
        data = ModelCard(card).data
        assert data.license == "apache-2.0"
        assert data.library_name == "diffusers"
        assert data.pipeline_tag == "unconditional-image-generation"
        assert data.datasets == ["ylecun/mnist"]
        assert {"accuracy", "judge_fid"} <= set(data.metrics)
        results = {result.metric_type: result for result in data.eval_results}
        assert results["accuracy"].metric_value == 0.9
        assert results["judge_fid"].dataset_type == "ylecun/mnist"
        assert "model-index" in yaml.safe_load(card.split("---")[1])

    def test_body(self, card):
        for view in ("table", "per_class", "confusion", "provenance"):
            assert render_view(RUNS, "default", view) in card
        assert render_view(RUNS, "study-scale") in card
        assert "### Steps" not in card and "### The guide" not in card
        assert "{{" not in card and "{%" not in card
        assert "MLPDenoiser" in card

    def test_its_example_runs_as_pasted(self, card, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for code in re.findall(r"```python\n(.*?)```", card, re.DOTALL):
            exec(compile(code, "card", "exec"), {})
        assert (tmp_path / "three.png").is_file()

    def test_needs_the_default_run(self, tiny_pipeline_folder, tmp_path):
        with pytest.raises(ValueError, match="no run or group 'default'"):
            render_model_card(tiny_pipeline_folder, {})
        with pytest.raises(FileNotFoundError, match="not the folder of a pipeline"):
            render_model_card(tmp_path, RUNS)

    def test_bad_templates(self, tiny_pipeline_folder, tmp_path):
        for text, message in (
            ("---\n{{ card_data }}\n---\n{{ nothing }}", "'nothing' is undefined"),
            ("no front matter", "does not come back"),
            ("---\n{{ card_data }}\n---\n{% if %}", "cannot be filled"),
        ):
            (tmp_path / "card.md").write_text(text)
            with pytest.raises(ValueError, match=message):
                render_model_card(tiny_pipeline_folder, RUNS, template=tmp_path / "card.md")


class TestCommand:
    @pytest.fixture
    def workplace(self, tmp_path, tiny_pipeline_folder) -> Path:
        for name, run in RUNS.items():
            write_run(tmp_path / "metrics.json", name, run)
        (tmp_path / "README.md").write_text(TestDocument.TEXT)
        folder = tmp_path / "pipeline"
        folder.mkdir()
        for file in tiny_pipeline_folder.rglob("*"):
            if file.is_file():
                (folder / file.relative_to(tiny_pipeline_folder)).parent.mkdir(exist_ok=True)
                (folder / file.relative_to(tiny_pipeline_folder)).write_bytes(file.read_bytes())
        write_manifest(folder)
        return tmp_path

    def render(self, workplace: Path, *options: str) -> None:
        files = ["--documents", str(workplace / "README.md"), "--card", str(workplace / "pipeline")]
        main(["render", *files, "--metrics", str(workplace / "metrics.json"), *options])

    def test_writes_and_checks(self, workplace, capsys):
        with pytest.raises(SystemExit):
            self.render(workplace, "--check")
        assert "README.md" in capsys.readouterr().err
        assert (workplace / "README.md").read_text() == TestDocument.TEXT
        self.render(workplace)
        self.render(workplace, "--check")
        assert "0 of 2" in capsys.readouterr().out
        assert "README.md" in (workplace / "pipeline" / MANIFEST).read_text()
        assert verify_manifest(workplace / "pipeline")
        write_run(workplace / "metrics.json", "default", record(accuracy=0.91))
        with pytest.raises(SystemExit):
            self.render(workplace, "--check")
        self.render(workplace)
        assert verify_manifest(workplace / "pipeline")

    def test_a_damaged_pipeline_gets_no_new_manifest(self, workplace, capsys):
        weights = next((workplace / "pipeline").rglob("*.safetensors"))
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        with pytest.raises(SystemExit):
            self.render(workplace)
        with pytest.raises(IntegrityError):
            verify_manifest(workplace / "pipeline")

    def test_missing_files(self, tmp_path, capsys):
        with pytest.raises(SystemExit):
            main(["render", "--metrics", str(tmp_path / "metrics.json")])
        assert "there is no file" in capsys.readouterr().err
