"""Evaluation: images that depend on their index alone, files that lose nothing, and bad models in the right column."""

import ast
import dataclasses
import functools
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ConfigMixin, DDIMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torchvision.transforms.functional import gaussian_blur

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.data.images import LabelledImages, to_model_range
from mnist_guided_pipeline.evaluation import fingerprints, run
from mnist_guided_pipeline.evaluation import samples as sampling
from mnist_guided_pipeline.evaluation import scores as scoring
from mnist_guided_pipeline.evaluation.accuracy_score import classification_accuracy_score
from mnist_guided_pipeline.evaluation.inception import InceptionFid, check_inception, load_inception
from mnist_guided_pipeline.evaluation.judge import Judge, load_judge
from mnist_guided_pipeline.evaluation.metrics import judge_fid, memorisation
from mnist_guided_pipeline.evaluation.records import read_runs, write_run
from mnist_guided_pipeline.evaluation.run import Bench, grid, measure_runs
from mnist_guided_pipeline.evaluation.samples import SamplingSettings, draw_images
from mnist_guided_pipeline.evaluation.scores import Reference, score_images

NAMES = {"model": "somewhere/tiny", "judge": None, "dataset_name": "/data/digits", "inception_weights": None}


@pytest.fixture
def tiny(tiny_pipeline_folder) -> mgp.ClassifierGuidedLatentPipeline:
    return mgp.ClassifierGuidedLatentPipeline.from_pretrained(tiny_pipeline_folder)


class StoredImages(ModelMixin, ConfigMixin):
    """The exact denoiser of a finite set of images: it can only draw those. ``blind`` ignores the labels."""

    @register_to_config
    def __init__(self, sample_shape=(1, 28, 28), num_classes: int = 10, blind: bool = False):
        super().__init__()
        self.register_buffer("table", DDIMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod)

    def remember(self, images: torch.Tensor, labels: torch.Tensor) -> "StoredImages":
        self.register_buffer("images", to_model_range(images).flatten(1))
        self.register_buffer("labels", labels)
        return self

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        signal = self.table[timestep.long()]
        distance = torch.cdist(sample.flatten(1), signal.sqrt() * self.images)
        logits = -0.5 * distance**2 / (1 - signal)
        if class_labels is not None and not self.config.blind:
            logits = logits.masked_fill(class_labels[:, None] != self.labels, -torch.inf)
        return ((logits.softmax(dim=1) @ self.images).reshape(sample.shape),)


def pipeline_of(images: torch.Tensor, labels: torch.Tensor, blind: bool = False) -> mgp.ClassifierGuidedLatentPipeline:
    denoiser = StoredImages(blind=blind).remember(images, labels)
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False, timestep_spacing="trailing"
    )
    return mgp.ClassifierGuidedLatentPipeline(None, denoiser, None, scheduler)


@pytest.fixture(scope="module")
def handwriting() -> LabelledImages:
    """scikit-learn's digits, framed as MNIST is, so that the shipped judge reads them."""
    bundled = pytest.importorskip("sklearn.datasets").load_digits()
    images = torch.zeros(len(bundled.images), 28, 28, dtype=torch.uint8)
    for row, image in enumerate((bundled.images * (255 / 16)).astype(np.uint8)):
        scaled = Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC)
        images[row, 4:24, 4:24] = torch.from_numpy(np.array(scaled))
    return LabelledImages(images, torch.tensor(bundled.target), tuple("0123456789"))


def part(images: LabelledImages, start: int, stop: int) -> LabelledImages:
    return LabelledImages(images.images[start:stop], images.labels[start:stop], images.class_names)


@pytest.fixture(scope="module")
def bench(handwriting) -> Bench:
    return Bench(load_judge(), part(handwriting, 0, 700), part(handwriting, 700, 1300), NAMES)


def differences(first: torch.Tensor, second: torch.Tensor) -> int:
    return (first.int() - second.int()).abs().max().item()


class TestDrawing:
    def test_does_not_depend_on_the_chunks(self, tiny, tmp_path):
        settings = SamplingSettings(num_images=25)
        whole = draw_images(tiny, settings, tmp_path / "a", chunk_size=25)
        cut = draw_images(tiny, settings, tmp_path / "b", chunk_size=7)
        assert len(whole.files) == 1
        assert len(cut.files) == 4
        assert whole.images().shape == (25, 28, 28)
        assert differences(whole.images(), cut.images()) <= 1
        assert torch.equal(whole.labels, torch.arange(25) % 10)
        assert whole.seconds > 0

    def test_stochastic_scheduler_too(self, tiny, tmp_path):
        settings = SamplingSettings(num_images=12, scheduler="EulerAncestralDiscreteScheduler", num_inference_steps=4)
        images = [draw_images(tiny, settings, tmp_path / str(size), size).images() for size in (12, 5)]
        assert differences(*images) <= 1

    def test_images_are_those_of_the_pipeline(self, tiny, tmp_path):
        drawn = draw_images(tiny, SamplingSettings(num_images=13, seed=5, guidance_scale=2.0), tmp_path).images()
        generator = sampling.keyed_generator(5, 2, 1)  # image 12 is number 1 of class 2
        alone = tiny([2], guidance_scale=2.0, generator=[generator]).images[0]
        assert differences(drawn[12], torch.from_numpy(np.array(alone))) <= 1

    def test_more_images_extend_what_is_there(self, tiny, tmp_path):
        few = draw_images(tiny, SamplingSettings(num_images=20), tmp_path, chunk_size=10)
        stamps = [file.stat().st_mtime_ns for file in few.files]
        more = draw_images(tiny, SamplingSettings(num_images=30), tmp_path, chunk_size=10)
        assert [file.stat().st_mtime_ns for file in more.files[:2]] == stamps
        assert torch.equal(more.images()[:20], few.images())

    def test_goes_on_after_an_interruption(self, tiny, tmp_path, monkeypatch):
        settings, finished = SamplingSettings(num_images=40), []
        draw = sampling._draw_chunk

        def dies_in_the_third(*arguments):
            if len(finished) == 2:
                raise KeyboardInterrupt
            finished.append(arguments[2])
            draw(*arguments)

        monkeypatch.setattr(sampling, "_draw_chunk", dies_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            draw_images(tiny, settings, tmp_path / "a", chunk_size=10)
        monkeypatch.setattr(sampling, "_draw_chunk", lambda *given: (finished.append(given[2]), draw(*given)))
        resumed = draw_images(tiny, settings, tmp_path / "a", chunk_size=10)
        assert [span.start for span in finished] == [0, 10, 20, 30]
        assert torch.equal(resumed.images(), draw_images(tiny, settings, tmp_path / "b", chunk_size=10).images())

    @pytest.mark.parametrize("damage", [b"", b"rubbish", None])
    def test_a_damaged_chunk_is_drawn_again(self, tiny, tmp_path, damage):
        settings = SamplingSettings(num_images=20)
        before = draw_images(tiny, settings, tmp_path, chunk_size=10)
        images, file = before.images(), before.files[1]
        file.write_bytes(file.read_bytes()[:-5] if damage is None else damage)
        assert torch.equal(draw_images(tiny, settings, tmp_path, chunk_size=10).images(), images)

    def test_whatever_changes_the_images_changes_the_place(self, tiny, tmp_path):
        def folder(**changes) -> Path:
            return draw_images(tiny, SamplingSettings(num_images=10, **changes), tmp_path).files[0].parent

        places = {
            folder(),
            folder(seed=1),
            folder(guidance_scale=2.0),
            folder(num_inference_steps=2),
            folder(scheduler="DDIMScheduler"),
            folder(scheduler="DDIMScheduler", eta=1.0),
            folder(guidance_interval=(0.5, 2.0)),
        }
        with torch.no_grad():
            next(tiny.classifier.parameters()).add_(1e-3)
        places.add(folder())
        assert len(places) == 8
        assert folder(num_inference_steps=3) == folder(guidance_scale=1.0) == folder()  # its defaults, said aloud

    def test_the_code_in_the_key_is_all_that_draws(self):
        root = Path(mgp.__file__).parent
        seen, waiting = set(), ["pipeline", "evaluation/sampling"]
        while waiting:
            name = waiting.pop()
            seen.add(name)
            for node in ast.walk(ast.parse((root / f"{name}.py").read_text())):
                if isinstance(node, ast.ImportFrom) and node.level:
                    module = Path(name).parents[node.level - 1] / node.module.replace(".", "/")
                    if (root / f"{module}.py").is_file() and str(module) not in seen:
                        waiting.append(str(module))
        bookkeeping = {"atomic", "evaluation/fingerprints", "limits", "safety", "storage", "weight_files"}
        assert set(fingerprints.SAMPLING_CODE) == seen - bookkeeping

    def test_pipeline_without_labels(self, tiny, tmp_path):
        plain = mgp.ClassifierGuidedLatentPipeline(tiny.vae, tiny.denoiser, None, tiny.scheduler)
        drawn = draw_images(plain, SamplingSettings(num_images=9, num_inference_steps=2), tmp_path, chunk_size=4)
        assert drawn.labels is None
        assert drawn.images().shape == (9, 28, 28)

    def test_images_that_are_not_finite_are_counted(self, tiny, tmp_path):
        with torch.no_grad():
            next(tiny.denoiser.parameters()).fill_(torch.nan)
        drawn = draw_images(tiny, SamplingSettings(num_images=6), tmp_path)
        assert drawn.num_non_finite == 6
        assert drawn.images().max() == 0

    def test_leaves_the_scheduler_as_it_was(self, tiny, tmp_path):
        own = tiny.scheduler
        draw_images(tiny, SamplingSettings(num_images=2, scheduler="DDIMScheduler"), tmp_path)
        assert tiny.scheduler is own

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            *(("num_images", 0), ("scheduler", "NoScheduler"), ("num_inference_steps", 0), ("guidance_scale", -1.0)),
            *(("guidance_interval", (2.0, 1.0)), ("cfg_scale", -1.0), ("eta", 2.0)),
        ],
    )
    def test_bad_settings(self, setting, value):
        with pytest.raises(ValueError, match=setting):
            SamplingSettings(**{setting: value})

    def test_two_processes_draw_what_one_draws(self, tiny, tiny_pipeline_folder, tmp_path):
        script = tmp_path / "draw.py"
        script.write_text(
            "import sys, mnist_guided_pipeline as mgp\n"
            "from mnist_guided_pipeline.evaluation.samples import SamplingSettings, draw_images, start_processes\n"
            "pipe = mgp.ClassifierGuidedLatentPipeline.from_pretrained(sys.argv[1])\n"
            "drawn = draw_images(pipe, SamplingSettings(num_images=50), sys.argv[2], chunk_size=10)\n"
            "assert drawn.images().shape == (50, 28, 28) and start_processes().num_processes == 2\n"
            "start_processes().destroy_process_group()\n"
        )
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        done = subprocess.run(
            [*launcher, str(script), str(tiny_pipeline_folder), str(tmp_path / "two")],
            env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        one = draw_images(tiny, SamplingSettings(num_images=50), tmp_path / "one", chunk_size=10)
        folder = tmp_path / "two" / one.files[0].parent.name
        assert [file.name for file in one.files] == sorted(file.name for file in folder.iterdir())
        two = sampling.DrawnImages(tuple(folder / file.name for file in one.files), one.labels, 1.0, 0)
        assert differences(one.images(), two.images()) <= 1


@pytest.fixture(scope="module")
def scores(handwriting, bench, tmp_path_factory):
    """The figures of one faithful and four bad models, 400 images each, through the whole evaluation."""
    train, unseen = bench.train, part(handwriting, 1300, 1797)
    first_of_each = torch.stack([(unseen.labels == digit).nonzero()[0, 0] for digit in range(10)])
    models = {
        "faithful": pipeline_of(unseen.images, unseen.labels),
        "labels ignored": pipeline_of(unseen.images, unseen.labels, blind=True),
        "memorised": pipeline_of(train.images, train.labels),
        "one image a class": pipeline_of(unseen.images[first_of_each], unseen.labels[first_of_each]),
        "blurred": pipeline_of(gaussian_blur(unseen.images, 9, 2.5), unseen.labels),
    }
    folder = tmp_path_factory.mktemp("scores")
    runs = grid(SamplingSettings(num_images=400, num_inference_steps=10))
    return {
        name: measure_runs(pipe, runs, bench, folder / f"{index}.json", folder, progress=False)["default"]
        for index, (name, pipe) in enumerate(models.items())
    }


class TestBadModelsLookBad:
    def value(self, scores, model: str, name: str) -> float:
        return scores[model]["figures"][name]["value"]

    def test_the_faithful_one_looks_good(self, scores):
        assert self.value(scores, "faithful", "accuracy") > 0.9
        assert self.value(scores, "faithful", "judge_coverage") > 0.3
        assert self.value(scores, "faithful", "near_copies") < 0.1
        floor = scores["faithful"]["floors"]["real_training_images"]
        assert self.value(scores, "faithful", "judge_fid") < 2 * floor["judge_fid"]["value"]

    def test_ignored_labels_cost_accuracy_and_nothing_else(self, scores):
        assert self.value(scores, "labels ignored", "accuracy") < 0.25
        assert self.value(scores, "labels ignored", "judge_fid") < 2 * self.value(scores, "faithful", "judge_fid")

    def test_copies_of_the_training_set_shout(self, scores):
        assert self.value(scores, "memorised", "near_copies") > 0.9
        assert self.value(scores, "memorised", "copying_z") < -5 < self.value(scores, "faithful", "copying_z")
        assert self.value(scores, "memorised", "accuracy") > 0.9

    def test_one_image_a_class_has_no_variety(self, scores):
        assert self.value(scores, "one image a class", "accuracy") >= 0.8
        assert self.value(scores, "one image a class", "judge_recall") < 0.05
        coverage = self.value(scores, "one image a class", "judge_coverage")
        assert coverage < self.value(scores, "faithful", "judge_coverage") / 3

    def test_blurred_images_are_far_and_not_precise(self, scores):
        assert self.value(scores, "blurred", "judge_fid") > 3 * self.value(scores, "faithful", "judge_fid")
        assert self.value(scores, "blurred", "judge_precision") < self.value(scores, "faithful", "judge_precision")

    def test_classification_accuracy_score_needs_labels_that_are_true(self, bench, handwriting):
        unseen = part(handwriting, 1300, 1797)
        true, shuffled = (
            classification_accuracy_score(unseen.images, labels, bench.test, num_updates=60, progress=False)["value"]
            for labels in (unseen.labels, unseen.labels.roll(1))
        )
        assert true > 0.7
        assert shuffled < 0.3


class TestRecord:
    def test_holds_all_that_is_needed_to_measure_it_again(self, scores):
        record = scores["faithful"]
        assert record["settings"]["seed"] == 0
        assert record["settings"]["num_images"] == 400
        assert record["settings"]["scheduler"] == "DDIMScheduler"
        assert {"mnist_guided_pipeline", "torch", "diffusers"} <= record["versions"].keys()
        assert record["machine"]["processor"] and record["machine"]["cores"] >= 1
        command = record["command"].split()
        assert command[:3] == ["mnist-guided", "evaluate", "somewhere/tiny"]
        assert command[command.index("--num_images") + 1] == "400"
        assert command[command.index("--dataset_name") + 1] == "digits"  # not where it lies on this machine

    def test_figures_agree_with_each_other(self, scores):
        figures = scores["faithful"]["figures"]
        matrix = torch.tensor(figures["confusion_matrix"])
        accuracy = figures["accuracy"]
        assert matrix.sum(dim=1).tolist() == [40] * 10
        assert accuracy["value"] == matrix.trace().item() / 400
        assert accuracy["interval"][0] < accuracy["value"] < accuracy["interval"][1]
        per_class = figures["accuracy_per_class"]
        assert [per_class[str(digit)]["value"] for digit in range(10)] == (matrix.diag().double() / 40).tolist()
        assert figures["images_per_second"]["value"] > 0

    def test_floors(self, scores, bench):
        floors = scores["faithful"]["floors"]
        assert floors["judge"]["accuracy"]["num_images"] == 600
        assert floors["judge"]["accuracy"]["value"] > 0.9
        assert floors["real_training_images"]["judge_fid"]["num_images"] == 400
        assert "vae_reconstructions" not in floors

    def test_scores_do_not_depend_on_the_chunks(self, bench, handwriting):
        images, labels = handwriting.images[1300:1500], handwriting.labels[1300:1500]
        reference = Reference.of(bench.train, bench.test, bench.judge)
        whole = score_images([images], labels, bench.judge, reference)
        cut = score_images(images.split(33), labels, bench.judge, reference)
        assert cut["judge_fid"]["value"] == pytest.approx(whole["judge_fid"]["value"], rel=1e-3)
        assert cut["confusion_matrix"] == whole["confusion_matrix"]
        assert cut["near_copies"] == whole["near_copies"]

    def test_few_images_are_refused(self, bench, handwriting):
        reference = Reference.of(bench.train, bench.test, bench.judge)
        with pytest.raises(ValueError, match="num_images must be at least 100"):
            score_images([handwriting.images[:99]], handwriting.labels[:99], bench.judge, reference)

    def test_other_classes_are_refused(self, bench):
        test = LabelledImages(bench.test.images, bench.test.labels, tuple("abcdefghij"))
        with pytest.raises(ValueError, match="give a judge that was trained on this data set"):
            Reference.of(bench.train, test, bench.judge)


class TestFile:
    @pytest.mark.parametrize("name", ["metrics.json", "sweep.jsonl"])
    def test_keeps_other_runs(self, tmp_path, name):
        for run_name, value in (("a", 1), ("b/scale=2", 2), ("a", 3)):
            write_run(tmp_path / name, run_name, {"key": value})
        assert read_runs(tmp_path / name) == {"a": {"key": 3}, "b/scale=2": {"key": 2}}
        assert [file.name for file in tmp_path.iterdir()] == [name]

    def test_a_cut_line_costs_one_run(self, tmp_path):
        file = tmp_path / "sweep.jsonl"
        write_run(file, "a", {"key": 1})
        write_run(file, "b", {"key": 2})
        file.write_bytes(file.read_bytes()[:-4])
        write_run(file, "c", {"key": 3})
        assert list(read_runs(file)) == ["a", "c"]

    @pytest.mark.parametrize("content", ["", "[]", '{"runs": 3}', '{"other": {}}'])
    def test_nothing_else_is_written_over(self, tmp_path, content):
        file = tmp_path / "metrics.json"
        file.write_text(content)
        with pytest.raises(ValueError, match="is not a file of measurements"):
            write_run(file, "a", {})
        assert file.read_text() == content

    def test_names_fit_the_markers(self, tmp_path):
        with pytest.raises(ValueError, match="name must be letters"):
            write_run(tmp_path / "metrics.json", "two words", {})

    def test_a_grid_is_named_by_what_varies(self):
        base = SamplingSettings(num_images=10)
        assert list(grid(base)) == ["default"]
        assert list(grid(base, scales=[2.0], name="high")) == ["high"]
        runs = grid(base, ["DDIMScheduler"], [10, 20], [1.0, 2.5], "sweep")
        assert list(runs)[1] == "sweep/num_inference_steps=10,guidance_scale=2.5"
        assert len(runs) == 4
        assert runs["sweep/num_inference_steps=20,guidance_scale=1"].scheduler == "DDIMScheduler"


class TestInceptionFid:
    @pytest.fixture
    def network(self) -> torch.nn.Module:
        """A small network in the place of Inception: three channels of uint8 in, features out."""
        torch.manual_seed(0)
        layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 5, stride=4), torch.nn.ReLU(), torch.nn.Flatten())

        class Features(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(4 * 36, 8))

            def forward(self, images):
                assert images.dtype == torch.uint8 and images.shape[1:] == (3, 28, 28)
                return self.layers(images.float() / 255.0)

        return Features().eval()

    def test_is_the_frechet_distance_of_the_features(self, network, handwriting):
        real, fake = handwriting.images[:300], handwriting.images[300:500].flip(2)
        distance = InceptionFid(network, real, num_features=8)
        with torch.no_grad():
            features = [network(images[:, None].expand(-1, 3, -1, -1)) for images in (real, fake)]
        expected = judge_fid(*features)
        assert distance([fake]) == pytest.approx(expected, rel=1e-4)
        assert distance(fake.split(33)) == pytest.approx(expected, rel=1e-4)  # the real features are kept
        assert distance([real]) == pytest.approx(0.0, abs=1e-6)

    def test_enters_figures_floors_and_key(self, network, bench, handwriting, tmp_path):
        pipe = pipeline_of(handwriting.images[1300:], handwriting.labels[1300:])
        runs = grid(SamplingSettings(num_images=100, num_inference_steps=4))
        with_it = dataclasses.replace(bench, inception=network)
        distance = functools.partial(InceptionFid, num_features=8)
        plain = measure_runs(pipe, runs, bench, tmp_path / "a.json", tmp_path, progress=False)["default"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "InceptionFid", distance)
            record = measure_runs(pipe, runs, with_it, tmp_path / "a.json", tmp_path, progress=False)["default"]
        assert record["key"] != plain["key"]
        assert record["figures"]["inception_fid"]["value"] > 0
        assert record["floors"]["real_training_images"]["inception_fid"]["value"] > 0
        assert "inception_fid" not in plain["figures"] and "inception" not in plain

    def test_says_what_is_missing(self, tmp_path, monkeypatch):
        with pytest.raises(FileNotFoundError, match="inception_weights: there is no file"):
            check_inception(tmp_path / "nothing.pth")
        (tmp_path / "weights.pth").write_bytes(b"rubbish")
        if find_spec("torch_fidelity") is None:
            with pytest.raises(ValueError, match=r"mnist-guided-pipeline\[inception\]"):
                load_inception(tmp_path / "weights.pth")
        else:
            with pytest.raises(ValueError, match="are not of that network"):
                load_inception(tmp_path / "weights.pth")


class TestWhatIsMeasuredOnce:
    def test_floors_and_held_out_distances(self, bench, handwriting, tmp_path, monkeypatch):
        """Of two runs in a command only the first measures real images, and a later command finds them in the file."""
        searched, floored = [], []
        search, floors = scoring.nearest_neighbours, run.floors
        monkeypatch.setattr(scoring, "nearest_neighbours", lambda *given: (searched.append(1), search(*given))[1])
        monkeypatch.setattr(run, "floors", lambda *given: (floored.append(1), floors(*given))[1])
        pipe = pipeline_of(handwriting.images[1300:], handwriting.labels[1300:])
        base = SamplingSettings(num_images=100)
        runs = grid(base, steps=[2, 3], name="a")
        first = measure_runs(pipe, runs, bench, tmp_path / "m.json", tmp_path, progress=False)
        assert len(searched) == len(floored) == 1
        later = measure_runs(pipe, grid(base, name="b"), bench, tmp_path / "m.json", tmp_path, progress=False)
        assert len(floored) == 1
        assert later["b"]["floors"] == first["a/num_inference_steps=2"]["floors"]
        measure_runs(pipe, grid(base, name="c"), bench, tmp_path / "other.json", tmp_path, progress=False)
        assert len(floored) == 2

    def test_known_distances_change_nothing(self, handwriting):
        generated, train, held_out = handwriting.images.split([150, 700, 947])
        known = scoring.nearest_neighbours(held_out, train)[0]
        assert memorisation(generated, train, held_out, known) == memorisation(generated, train, held_out)


class TestCommand:
    @pytest.fixture
    def evaluate(self, tiny_pipeline_folder, digits_folder, tmp_path):
        def run(*options: object) -> None:
            folders = ["--dataset_name", str(digits_folder), "--cache_dir", str(tmp_path / "cache")]
            main(["evaluate", str(tiny_pipeline_folder), *folders, "--num_images", "100", *map(str, options)])

        return run

    def test_sweep_resumes(self, evaluate, tmp_path, capsys):
        output = tmp_path / "sweep.jsonl"
        evaluate("--guidance_scale", 0, 2, "--output", output, "--name", "scales")
        printed = capsys.readouterr().out
        assert printed.count("measured in") == 2
        assert "| 100 generated" in printed and "VAE reconstructions" in printed
        lines = output.read_text().splitlines()
        output.write_text(lines[0] + "\n")
        evaluate("--guidance_scale", 0, 2, "--output", output, "--name", "scales")
        printed = capsys.readouterr().out
        assert printed.count("already, kept") == printed.count("measured in") == 1
        again = [json.loads(line) for line in output.read_text().splitlines()]
        for line, before in zip(again, map(json.loads, lines), strict=True):
            assert line == before  # the samples came from the cache, so even the seconds are the same
        assert [run["settings"]["guidance_scale"] for run in again] == [0.0, 2.0]

    def test_another_judge_measures_again(self, evaluate, tmp_path, capsys):
        output = tmp_path / "metrics.json"
        evaluate("--output", output)
        other = load_judge().model
        with torch.no_grad():
            next(other.parameters()).mul_(1.1)
        other.save_pretrained(tmp_path / "judge")
        evaluate("--output", output, "--judge", tmp_path / "judge", "--name", "other")
        evaluate("--output", output, "--judge", tmp_path / "judge")
        runs = read_runs(output)
        assert list(runs) == ["default", "other"]
        assert runs["default"]["judge"] == runs["other"]["judge"]
        assert capsys.readouterr().out.count("measured in") == 3
        assert isinstance(Judge.from_pretrained(tmp_path / "judge"), Judge)

    def test_another_type_is_another_run_and_in_its_command(self, evaluate, tmp_path):
        output = tmp_path / "metrics.json"
        evaluate("--output", output, "--name", "float32")
        evaluate("--output", output, "--name", "bfloat16", "--dtype", "bfloat16")
        full, half = (read_runs(output)[name] for name in ("float32", "bfloat16"))
        assert full["model"]["fingerprint"] != half["model"]["fingerprint"]
        assert "--dtype bfloat16" in half["command"] and "--dtype" not in full["command"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--output", "metrics.txt"], "must end in .json, or in .jsonl"),
            (["--output", "nowhere/metrics.json"], "there is no folder"),
            (["--num_images", "50"], "num_images must be at least 100"),
            (["--scheduler", "NoScheduler"], "scheduler 'NoScheduler' is not supported"),
            (["--guidance_scale", "-1"], "guidance_scale must be"),
            (["--chunk_size", "0"], "chunk_size must be"),
            (["--name", "two words"], "name must be letters"),
            (["--judge", "nowhere"], "is not the folder of a judge"),
            (["--inception_weights", "nowhere.pth"], "inception_weights: there is no file"),
        ],
    )
    def test_bad_options(self, evaluate, tmp_path, monkeypatch, capsys, options, message):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            evaluate(*options)
        assert stop.value.code == 2
        assert message in " ".join(capsys.readouterr().err.split())
        assert not list(tmp_path.iterdir())
