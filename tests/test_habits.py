"""What users of diffusers and transformers do without thinking works here too."""

import copy
import re
from collections import Counter
from pathlib import Path

import pytest
import torch
from diffusers import AutoModel, DDIMScheduler, FlowMatchEulerDiscreteScheduler
from transformers import AutoModelForImageClassification

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.weights import JUDGE_FOLDER
from tiny import seeds

Pipeline = mgp.ClassifierGuidedLatentPipeline
NETWORKS = ("vae", "denoiser", "classifier")


@pytest.fixture
def pipe(tiny_pipeline_folder):
    return load(tiny_pipeline_folder)


def load(folder, **options):
    return Pipeline.from_pretrained(folder, **options)


def draw(pipe, **arguments):
    arguments = {"num_inference_steps": 4, "guidance_scale": 2.0, "output_type": "pt", **arguments}
    return pipe([3, "digit 5"], generator=seeds(0)[0], **arguments).images


def test_every_public_name_has_a_home():
    """Names of the package are there; and nothing that a module defines is left without a user, if only a test."""
    assert all(getattr(mgp, name).__name__ == name for name in mgp.__all__) and set(mgp.__all__) <= set(dir(mgp))
    assert not hasattr(mgp, "no_such_name")
    root = Path(__file__).parents[1]
    files = [file for folder in ("src", "training", "tests", "notebooks") for file in (root / folder).rglob("*.*")]
    texts = {file: file.read_text() for file in files if file.suffix in (".py", ".ipynb")}
    words = Counter(word for text in texts.values() for word in re.findall(r"\w+", text))
    defined = re.compile(r"^(?:def|class) (?!__)(\w+)", re.MULTILINE)
    sources = [text for file, text in texts.items() if root / "src" in file.parents]
    assert not [name for text in sources for name in defined.findall(text) if words[name] < 2]


def test_text_files_are_utf8_whatever_the_locale_says():
    calls = re.compile(r"\.(?:read|write)_text\((?!.*encoding=).*")
    files = [file for name in ("src", "training") for file in (Path(__file__).parents[1] / name).rglob("*.py")]
    assert len(files) > 80
    assert not {str(file): found for file in files if (found := calls.findall(file.read_text(encoding="utf-8")))}


class TestTypesAndDevices:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
    def test_torch_dtype_and_to_are_the_same(self, pipe, tiny_pipeline_folder, dtype):
        loaded = load(tiny_pipeline_folder, torch_dtype=dtype)
        assert pipe.to(dtype) is pipe
        for each in (pipe, loaded):
            assert each.dtype == dtype
            assert {parameter.dtype for name in NETWORKS for parameter in getattr(each, name).parameters()} == {dtype}
        assert torch.equal(draw(loaded), draw(pipe))

    def test_to_a_device_and_a_type_at_once(self, pipe):
        expected = draw(pipe)
        pipe.to("cpu", torch.float64).to(device="cpu", dtype=torch.float32)
        assert pipe.device.type == "cpu" and torch.equal(draw(pipe), expected)

    def test_model_offload_leaves_the_images_alone(self, pipe):
        """The hooks are those of an accelerator; here they move every network from the CPU to the CPU."""
        expected = draw(pipe)
        pipe.enable_model_cpu_offload(device="cpu")
        assert all(hasattr(getattr(pipe, name), "_hf_hook") for name in NETWORKS)
        assert torch.equal(draw(pipe), expected)
        assert torch.equal(draw(pipe), expected)  # the hooks are put back after a call

    @pytest.mark.skipif(not torch.accelerator.is_available(), reason="needs an accelerator")
    @pytest.mark.parametrize("how", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
    def test_offload_to_an_accelerator(self, pipe, tiny_pipeline_folder, how):
        expected = draw(load(tiny_pipeline_folder).to(torch.accelerator.current_accelerator())).cpu()
        getattr(pipe, how)()
        torch.testing.assert_close(draw(pipe).cpu(), expected)
        rests = {parameter.device.type for name in NETWORKS for parameter in getattr(pipe, name).parameters()}
        assert rests == ({"cpu"} if how == "enable_model_cpu_offload" else {"meta"})


class TestComponents:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_by_class_or_auto_class(self, pipe, tiny_pipeline_folder, name):
        expected = getattr(pipe, name)
        for auto in (type(expected), AutoModel):
            found = auto.from_pretrained(str(tiny_pipeline_folder), subfolder=name)  # AutoModel wants a text
            assert type(found) is type(expected) and not found.training
            assert all(torch.equal(value, found.state_dict()[key]) for key, value in expected.state_dict().items())

    def test_the_judge_by_its_auto_class(self):
        judge = AutoModelForImageClassification.from_pretrained(JUDGE_FOLDER, dtype=torch.float32)
        images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1
        with torch.no_grad():
            torch.testing.assert_close(judge(images).logits, mgp.load_judge().model(images).logits)

    @pytest.mark.parametrize(
        "again", [lambda pipe: Pipeline(**pipe.components), Pipeline.from_pipe], ids=["components", "from_pipe"]
    )
    def test_reuse_shares_networks_and_keeps_settings(self, pipe, again):
        other = again(pipe)
        assert all(getattr(other, name) is getattr(pipe, name) for name in NETWORKS)
        for setting in ("id2label", "training_noise", "sampling_defaults"):
            assert other.config[setting] == pipe.config[setting]
        assert torch.equal(draw(other), draw(pipe))

    def test_another_scheduler_brings_its_own_noise(self, pipe):
        flow = FlowMatchEulerDiscreteScheduler()
        assert Pipeline(**{**pipe.components, "scheduler": flow}).config.training_noise["law"] == "flow"

    def test_reuse_with_other_settings(self, pipe):
        names = {index: f"digit {index}" for index in range(10)}
        other = Pipeline(**copy.deepcopy(pipe.components), id2label=names, sampling_defaults={})
        assert other.id2label == names and dict(other.config.sampling_defaults) == {}
        smaller = {**pipe.components, "denoiser": copy.deepcopy(pipe.denoiser)}
        smaller["classifier"] = mgp.MLPClassifier(pipe.denoiser.config.sample_shape, num_classes=3, hidden_size=8)
        assert list(Pipeline(**smaller).id2label.values()) == ["0", "1", "2"]

    def test_from_pipe_with_other_parts(self, pipe):
        ddim = pipe.make_scheduler(DDIMScheduler)
        other = Pipeline.from_pipe(pipe, scheduler=ddim, classifier=None)
        assert other.scheduler is ddim and other.classifier is None and other.denoiser is pipe.denoiser
        assert pipe.scheduler is not ddim and pipe.classifier is not None

    def test_a_deep_copy_is_apart(self, pipe):
        expected = draw(pipe)
        other = copy.deepcopy(pipe)
        assert torch.equal(draw(other), expected)
        other.scheduler = other.make_scheduler(DDIMScheduler)
        torch.nn.init.zeros_(other.denoiser.get_parameter(next(iter(other.denoiser.state_dict()))))
        assert torch.equal(draw(pipe), expected) and not torch.equal(draw(other), expected)
