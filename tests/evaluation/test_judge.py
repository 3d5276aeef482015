"""The shipped judge: accurate, independent of the batch, and a stranger to every guide."""

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import (
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.data.images import load_images
from mnist_guided_pipeline.evaluation.judge import Judge, load_judge
from mnist_guided_pipeline.evaluation.metrics import expected_calibration_error
from mnist_guided_pipeline.training.config import ClassifierConfig, DenoiserConfig, VAEConfig
from mnist_guided_pipeline.weights import JUDGE_FOLDER

PROCESSOR = ViTImageProcessor(size={"height": 16, "width": 16}, image_mean=[0.1, 0.5, 0.9])


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (21, 28, 28), dtype=torch.uint8, generator=generator)


def test_is_the_transformers_model_on_model_range(judge, images):
    probabilities, features = judge(images)
    assert probabilities.shape == (21, 10)
    assert probabilities.dtype == features.dtype == torch.float32
    assert torch.allclose(probabilities.sum(dim=1), torch.ones(21), atol=1e-6)
    assert features.shape == (21, judge.model.config.hidden_sizes[-1])
    assert torch.equal(judge.predict(images), probabilities)
    assert torch.equal(judge.features(images), features)
    assert judge.class_names == tuple("0123456789")
    with torch.no_grad():
        logits = judge.model(images[:, None].float() / 127.5 - 1.0).logits
    assert torch.allclose(probabilities, logits.softmax(dim=1), atol=1e-5)


def test_does_not_depend_on_the_batch(judge, images):
    together, apart = judge(images), judge(images, batch_size=4)
    assert torch.allclose(together.probabilities, apart.probabilities, atol=1e-5)
    assert torch.allclose(together.features, apart.features, atol=1e-4)


@pytest.mark.parametrize(
    "bad", [torch.zeros(2, 28, 28), torch.zeros(2, 1, 28, 28).byte(), torch.zeros(0, 28, 28).byte()]
)
def test_refuses_other_images(judge, bad):
    with pytest.raises(ValueError, match=r"images must be uint8 \(N, 28, 28\)"):
        judge(bad)


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    names = {"id2label": {0: "cat", 1: "dog", 2: "owl"}, "label2id": {"cat": 0, "dog": 1, "owl": 2}}
    torch.manual_seed(0)
    ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, **size, **names)).save_pretrained(folder)
    PROCESSOR.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def colour():
    return torch.randint(0, 256, (5, 3, 32, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class TestAnyImageClassifier:
    """A ViT of transformers with its processor judges images of other sizes and colours."""

    @pytest.fixture
    def vit(self, vit_folder):
        return Judge.from_pretrained(vit_folder)

    def test_its_processor_and_its_last_hidden_state(self, vit, colour):
        with torch.no_grad():
            told = vit.model(PROCESSOR(colour, return_tensors="pt")["pixel_values"], output_hidden_states=True)
            last = vit.model.vit.layernorm(told.hidden_states[-1])[:, 0]
        probabilities, features = vit(colour, batch_size=2)
        assert torch.allclose(probabilities, told.logits.softmax(dim=1), atol=1e-6)
        assert torch.allclose(features, last, atol=1e-5)
        grey = colour[:, 0]
        assert torch.equal(vit.predict(grey), vit.predict(grey[:, None].expand(-1, 3, -1, -1)))

    def test_classes_by_name_among_others_or_in_order(self, vit, colour, caplog):
        own, chosen = vit.predict(colour), vit.of_classes(("owl", "cat"))
        assert chosen.class_names == ("owl", "cat")
        among = own[:, [2, 0]] / own[:, [2, 0]].sum(dim=1, keepdim=True)
        assert torch.allclose(chosen.predict(colour), among, atol=1e-6)
        assert chosen.settings != vit.settings != []
        assert not caplog.records
        in_order = vit.of_classes(tuple("abc"))
        assert torch.equal(in_order.predict(colour), own) and in_order.class_names == tuple("abc")
        assert "'cat' is 'a', 'dog' is 'b', 'owl' is 'c'" in caplog.text
        for names in (("cat", "dog", "cow"), tuple("abcd")):
            with pytest.raises(ValueError, match="the classes cat, dog, owl, the data set .*(cow|d): give a judge"):
                vit.of_classes(names)

    def test_without_a_processor_images_must_be_of_its_shape_in_model_range(self, vit, tmp_path, caplog):
        vit.model.save_pretrained(tmp_path)
        bare, images = Judge.from_pretrained(tmp_path), torch.zeros(1, 3, 16, 16).byte()
        assert "has no image processor: it is shown images in [-1, 1]" in caplog.text
        assert bare.image_shape == (3, 16, 16) and vit.image_shape is None
        with torch.no_grad():
            expected = vit.model(torch.full((1, 3, 16, 16), -1.0)).logits.softmax(dim=1)
        assert torch.allclose(bare.predict(images), expected)
        with pytest.raises(ValueError, match=r"images must be uint8 \(N, 3, 16, 16\)"):
            bare(images[..., :8])

    def test_refuses_a_model_without_a_linear_head(self, vit):
        vit.model.classifier = torch.nn.Identity()
        with pytest.raises(ValueError, match="ViTForImageClassification without a linear layer of 3 outputs"):
            Judge(vit.model)


class TestSharesNothingWithTheGuide:
    def test_no_weights(self, judge):
        pipe = mgp.load_default()
        ours, theirs = (
            [tensor.float() for network in networks for tensor in network.state_dict().values() if tensor.numel() > 1]
            for networks in ([judge.model], [pipe.vae, pipe.denoiser, pipe.classifier])
        )
        trained = [tensor for tensor in ours if tensor.std() > 0]
        assert len(trained) > 40
        assert not [1 for one in trained for other in theirs if one.shape == other.shape and torch.equal(one, other)]

    def test_no_code(self, judge):
        """Its layers are of transformers or torch; what reads and trains it imports no network and no guidance."""
        assert {type(part).__module__.partition(".")[0] for part in judge.model.modules()} == {"transformers", "torch"}
        assert type(mgp.load_default().classifier).__module__.startswith("mnist_guided_pipeline.models.")
        script = Path(__file__).parents[2] / "training" / "train_judge.py"
        for file in (Path(sys.modules[Judge.__module__].__file__), script):
            nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.ImportFrom)]
            ours = {str(node.module) for node in nodes if node.level or str(node.module).startswith(mgp.__name__)}
            forbidden = (mgp.__name__, "models", "sampling", "guidance", "losses", "noise", "posteriors", "pipeline")
            assert ours and not [name for name in ours if name.endswith(forbidden) or ".models" in name], file.name


def test_shipped_files_are_small_and_public_and_of_another_seed_than_any_guide():
    """Seeds key weights, order and noise (``streams.py``): the judge's differs from every step's default."""
    assert (JUDGE_FOLDER / "model.safetensors").stat().st_size <= 2_000_000
    texts = "".join((JUDGE_FOLDER / name).read_text() for name in ("config.json", "train_config.json"))
    assert '"ylecun/mnist"' in texts and '"/' not in texts
    recipe = json.loads((JUDGE_FOLDER / "train_config.json").read_text())
    assert recipe["seed"] not in {config("").seed for config in (VAEConfig, DenoiserConfig, ClassifierConfig)}
    assert recipe["network"] == "ResNetForImageClassification"


def test_reads_the_test_set(judge, mnist):
    test = load_images(mnist, "test")
    probabilities = judge.predict(test.images)
    assert (probabilities.argmax(dim=1) == test.labels).double().mean() >= 0.996
    assert expected_calibration_error(probabilities, test.labels) <= 0.01
