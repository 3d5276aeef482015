"""Scores: bad models show in the right column, and a record holds all that is needed to measure it again."""

from dataclasses import replace

import pytest
import torch
from diffusers import ConfigMixin, DDIMScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torchvision.transforms.functional import gaussian_blur

import mnist_guided_pipeline as mgp
from judged import part
from mnist_guided_pipeline.data.images import LabelledImages, to_model_range
from mnist_guided_pipeline.evaluation import studies
from mnist_guided_pipeline.evaluation.accuracy_score import classification_accuracy_score
from mnist_guided_pipeline.evaluation.judge import load_judge
from mnist_guided_pipeline.evaluation.records import read_runs, write_run
from mnist_guided_pipeline.evaluation.samples import SamplingSettings
from mnist_guided_pipeline.evaluation.scores import Reference, proportion, score_images
from mnist_guided_pipeline.evaluation.studies import grid, measure_runs


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
        drawn = (logits.softmax(dim=1) @ self.images).reshape(sample.shape)
        return UNet2DOutput(drawn) if return_dict else (drawn,)


def pipeline_of(images: torch.Tensor, labels: torch.Tensor, blind: bool = False) -> mgp.ClassifierGuidedLatentPipeline:
    denoiser = StoredImages(blind=blind).remember(images, labels)
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type="sample", clip_sample=False, timestep_spacing="trailing"
    )
    return mgp.ClassifierGuidedLatentPipeline(None, denoiser, None, scheduler)


def last(images: LabelledImages) -> LabelledImages:
    return LabelledImages(images.images[1300:], images.labels[1300:], images.class_names)


@pytest.fixture(scope="module")
def scores(handwriting, reference, tmp_path_factory):
    """The values of one faithful and four bad models, 400 images each, through the whole evaluation."""
    train, unseen = reference.train, last(handwriting)
    first_of_each = torch.stack([(unseen.labels == digit).nonzero()[0, 0] for digit in range(10)])
    models = {
        "faithful": pipeline_of(unseen.images, unseen.labels),
        "labels ignored": pipeline_of(unseen.images, unseen.labels, blind=True),
        "memorised": pipeline_of(train.images, train.labels),
        "one image a class": pipeline_of(unseen.images[first_of_each], unseen.labels[first_of_each]),
        "blurred": pipeline_of(gaussian_blur(unseen.images, 9, 2.5), unseen.labels),
    }
    folder = tmp_path_factory.mktemp("scores")
    runs = grid(SamplingSettings(num_images=400, num_inference_steps=10), {})
    return {
        name: measure_runs(pipe, runs, reference, folder / f"{index}.json")["default"]
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
        assert self.value(scores, "memorised", "accuracy") > 0.9

    def test_one_image_a_class_has_no_variety(self, scores):
        assert self.value(scores, "one image a class", "accuracy") >= 0.8
        assert self.value(scores, "one image a class", "judge_recall") < 0.05
        coverage = self.value(scores, "one image a class", "judge_coverage")
        assert coverage < self.value(scores, "faithful", "judge_coverage") / 3

    def test_blurred_images_are_far_and_not_precise(self, scores):
        assert self.value(scores, "blurred", "judge_fid") > 3 * self.value(scores, "faithful", "judge_fid")
        assert self.value(scores, "blurred", "judge_precision") < self.value(scores, "faithful", "judge_precision")

    def test_classification_accuracy_score_needs_labels_that_are_true(self, reference, handwriting):
        unseen = last(handwriting)
        true, shuffled = (
            classification_accuracy_score(unseen.images, labels, reference.test, num_updates=40)["value"]
            for labels in (unseen.labels, unseen.labels.roll(1))
        )
        assert true > 0.7
        assert shuffled < 0.3


class TestScores:
    def test_a_proportion_has_its_interval(self):
        assert proportion(0, 10)["interval"][0] == 0.0
        assert proportion(9965, 10_000) == {
            "value": 0.9965,
            "interval": [pytest.approx(0.99513, abs=1e-5), pytest.approx(0.99748, abs=1e-5)],
            "num_images": 10_000,
        }

    def test_values_agree_with_each_other(self, scores):
        figures = scores["faithful"]["figures"]
        matrix = torch.tensor(figures["confusion_matrix"])
        accuracy = figures["accuracy"]
        wanted = matrix.sum(dim=1)
        assert wanted.sum() == 400
        assert accuracy["value"] == matrix.trace().item() / 400
        assert accuracy["interval"][0] < accuracy["value"] < accuracy["interval"][1]
        per_class = figures["accuracy_per_class"]
        assert [per_class[str(digit)]["value"] for digit in range(10)] == (matrix.diag().double() / wanted).tolist()
        assert figures["images_per_second"]["value"] > 0
        floors = scores["faithful"]["floors"]
        assert floors["judge"]["accuracy"]["num_images"] == 600 and floors["judge"]["accuracy"]["value"] > 0.9
        assert floors["real_training_images"]["judge_fid"]["num_images"] == 400
        assert "vae_reconstructions" not in floors

    def test_few_real_images_are_refused(self, reference):
        with pytest.raises(ValueError, match="real images in the test split must be at least 100 .* got 99"):
            Reference(reference.train, part(reference.test, 0, 99), reference.judge)


class TestMixOfLabels:
    @pytest.fixture
    def uneven(self, handwriting) -> Reference:
        """A test set that has the first five classes five times as often as the others."""
        few = [(handwriting.labels[700:] == label).nonzero()[: 100 if label < 5 else 20, 0] for label in range(10)]
        chosen = torch.cat(few) + 700
        test = LabelledImages(handwriting.images[chosen], handwriting.labels[chosen], handwriting.class_names)
        train = LabelledImages(handwriting.images[:700], handwriting.labels[:700], handwriting.class_names)
        return Reference(train, test, load_judge())

    def test_real_images_of_any_mix_are_at_no_distance_from_themselves(self, uneven):
        real = uneven.real_images(uneven.test, len(uneven.test))
        assert sorted(map(bytes, real.images.numpy())) == sorted(map(bytes, uneven.test.images.numpy()))
        figures = score_images(real.images, real.labels, uneven, check_memorisation=False)
        assert figures["judge_fid"]["value"] == pytest.approx(0, abs=1e-4)
        assert figures["judge_recall"]["value"] == 1.0

    def test_uniform_labels_alone_are_a_distance(self, uneven):
        uniform = replace(uneven, labels="uniform")
        assert uneven.class_weights == (100,) * 5 + (20,) * 5 and set(uniform.class_weights) == {1}
        floors = [studies.floors(mix, None, 180)["real_training_images"]["judge_fid"] for mix in (uneven, uniform)]
        assert floors[1]["value"] > 1.5 * floors[0]["value"]

    def test_floors_are_of_disjoint_draws_in_the_mix(self, uneven):
        draws = [uneven.real_images(uneven.train, 120, draw) for draw in range(3)]
        images = torch.cat([real.images for real in draws])
        assert len(set(map(bytes, images.numpy()))) == 360
        for real in draws:
            assert torch.bincount(real.labels).tolist() == [20] * 5 + [4] * 5
            right = load_judge().predict(real.images).argmax(dim=1) == real.labels
            assert right.double().mean() > 0.85
        floor = studies.floors(uneven, None, 120)["real_training_images"]["judge_fid"]
        assert floor["range"][0] <= floor["value"] <= floor["range"][1]

    def test_generated_labels_are_in_the_mix(self, uneven, handwriting, tmp_path):
        pipe = pipeline_of(handwriting.images[1300:], handwriting.labels[1300:])
        runs = grid(SamplingSettings(num_images=120, num_inference_steps=2), {})
        for labels, expected in (("reference", [20] * 5 + [4] * 5), ("uniform", [12] * 10)):
            mix = replace(uneven, labels=labels)
            record = measure_runs(pipe, runs, mix, tmp_path / "m.json")["default"]
            assert torch.tensor(record["figures"]["confusion_matrix"]).sum(dim=1).tolist() == expected
        with pytest.raises(ValueError, match="labels must be one of 'reference', 'uniform', got 'any'"):
            replace(uneven, labels="any")


class TestCommand:
    @pytest.fixture
    def words(self, tiny_pipeline_folder, digits_folder, tmp_path) -> list[object]:
        folders = ["--model", tiny_pipeline_folder, f"--dataset_name={digits_folder}"]
        return ["evaluate", *folders, "--num_images", 100]

    @pytest.fixture
    def evaluate(self, typed, words):
        return lambda *options: typed(*words, *options)

    def test_a_sweep_resumes(self, evaluate, tmp_path, capsys):
        output = tmp_path / "sweep.json"
        evaluate("--guidance_scale", 0, 2, "--output", output, "--name", "scales")
        printed = capsys.readouterr().out
        assert printed.count("measured in") == 2
        assert "| 100 generated" in printed and "VAE reconstructions" in printed
        first, second = read_runs(output).items()
        output.unlink()
        write_run(output, *first)
        evaluate("--guidance_scale", 0, 2, "--output", output, "--name", "scales")
        printed = capsys.readouterr().out
        assert printed.count("already, kept") == printed.count("measured in") == 1
        runs = list(read_runs(output).values())
        assert runs[0] == first[1] and runs[1]["figures"]["judge_fid"] == second[1]["figures"]["judge_fid"]
        assert [run["settings"]["guidance_scale"] for run in runs] == [0.0, 2.0]

    def test_the_record_holds_all_that_is_needed_to_measure_it_again(self, evaluate, digits_folder, tmp_path):
        options = ("--scheduler", "DDIMScheduler", "--scheduler_options", '{"timestep_spacing": "leading"}', "--eta", 1)
        evaluate("--output", tmp_path / "m.json", *options)
        record = read_runs(tmp_path / "m.json")["default"]
        assert record["settings"]["seed"] == 0 and record["settings"]["num_images"] == 100
        assert record["settings"]["scheduler"] == "DDIMScheduler"
        assert record["settings"]["scheduler_options"] == {"timestep_spacing": "leading"}
        assert record["scheduler_config"]["timestep_spacing"] == "leading"
        assert record["settings"]["eta"] == 1.0
        assert {"mnist_guided_pipeline", "torch", "diffusers"} <= record["versions"].keys()
        assert record["machine"]["processor"] and record["machine"]["cores"] >= 1
        assert record["command"] == (  # as typed, but for where things lie on this machine
            f"mnist-guided evaluate --model tiny --dataset_name={digits_folder.name} "
            "--num_images 100 --output m.json --scheduler DDIMScheduler "
            """--scheduler_options '{"timestep_spacing": "leading"}' --eta 1"""
        )
        names = [record[name]["name"] for name in ("model", "judge", "dataset")]
        assert names == ["tiny", "shipped", digits_folder.name]

    def test_another_judge_or_type_measures_again(self, evaluate, tmp_path, capsys):
        output = tmp_path / "metrics.json"
        evaluate("--output", output)
        other = load_judge().model
        with torch.no_grad():
            next(other.parameters()).mul_(1.1)
        other.save_pretrained(tmp_path / "judge")
        evaluate("--output", output, "--judge", tmp_path / "judge")
        evaluate("--output", output, "--name", "half", "--dtype", "bfloat16")
        runs = read_runs(output)
        assert list(runs) == ["default", "half"]
        assert runs["default"]["judge"]["name"] == "judge"
        assert runs["default"]["judge"]["fingerprint"] != runs["half"]["judge"]["fingerprint"]
        assert runs["default"]["model"]["fingerprint"] != runs["half"]["model"]["fingerprint"]
        assert capsys.readouterr().out.count("measured in") == 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--output", "metrics.txt"], "must end in .json"),
            (["--output", "nowhere/metrics.json"], "there is no folder"),
            (["--num_images", "50"], "num_images must be at least 100"),
            (["--guidance_scale", "-1"], "guidance_scale must be"),
            (["--name", "two words"], "name must be letters"),
            (["--judge", "nowhere"], "--judge 'nowhere' is neither a folder nor a Hub id"),
            (["--judge", "."], "--judge '.' has no config.json: it is not the folder of a judge"),
        ],
    )
    def test_bad_options(self, words, refused, tmp_path, monkeypatch, options, message):
        monkeypatch.chdir(tmp_path)
        assert message in refused(*words, *options)
        assert not list(tmp_path.iterdir())
