"""An exported pipeline loads with its own code or with the package, and a Space is ready to be uploaded."""

import json
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch

import mnist_guided_pipeline as mgp
from mnist_guided_pipeline.cli import main
from mnist_guided_pipeline.storage import export as module
from mnist_guided_pipeline.storage.atomic import IntegrityError, read_manifest, verify_manifest
from mnist_guided_pipeline.storage.export import export_pipeline
from tiny import images, make

PACKAGE = Path(mgp.__file__).parent
Pipeline = mgp.ClassifierGuidedLatentPipeline


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("export")
    make().save_pretrained(work / "saved")
    (work / "saved" / "README.md").write_text("card")
    main(["export", "--model", str(work / "saved"), "--output", str(work / "exported")])
    return work / "exported"


def test_every_network_can_go_alone():
    for name in mgp.__all__:
        found = getattr(mgp, name)
        if isinstance(found, type) and issubclass(found, mgp.ModelMixin) and found is not mgp.ModelMixin:
            file, source = module.network_code(name)
            alone = sys.modules[f"alone_{name}"] = types.ModuleType(f"alone_{name}")
            exec(compile(source, file, "exec"), vars(alone))
            assert issubclass(getattr(alone, name), alone.ModelMixin)


def test_it_loads_with_the_package_and_no_trust_and_is_then_a_plain_pipeline(exported, tmp_path):
    pipe = Pipeline.from_pretrained(exported)
    assert type(pipe) is Pipeline and type(pipe.denoiser) is mgp.MLPDenoiser
    assert torch.equal(images(pipe), images(Pipeline.from_pretrained(exported.parent / "saved")))
    index = json.loads((exported / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "ClassifierGuidedLatentPipeline"]
    assert (index["denoiser"], index["scheduler"][0]) == (["modeling_mnist_mlp", "MLPDenoiser"], "diffusers")
    assert verify_manifest(exported, ["pipeline.py"]) and (exported / "README.md").read_text() == "card"
    export_pipeline(exported, tmp_path / "again")
    assert read_manifest(tmp_path / "again") == read_manifest(exported)
    pipe.save_pretrained(tmp_path / "plain")
    index = json.loads((tmp_path / "plain" / "model_index.json").read_text())
    assert index["vae"] == ["mnist_guided_pipeline", "MLPVAE"] and not list((tmp_path / "plain").rglob("*.py"))


def test_code_that_was_changed_is_not_run_by_the_package(exported, tmp_path):
    folder = Path(shutil.copytree(exported, tmp_path / "changed"))
    for file in folder.rglob("*.py"):
        file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    Pipeline.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(IntegrityError, match=r"\.py is damaged"):
        verify_manifest(folder)


def test_damage_is_not_exported(exported, tmp_path):
    folder = Path(shutil.copytree(exported.parent / "saved", tmp_path / "damaged"))
    (folder / "vae" / "config.json").write_text("{}")
    with pytest.raises(IntegrityError, match="vae/config.json is damaged"):
        export_pipeline(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class TestCommand:
    def test_the_shipped_pipeline(self, tmp_path, capsys):
        main(["export", "--output", str(tmp_path / "out")])
        assert "trust_remote_code=True" in capsys.readouterr().out
        shipped, exported = images(mgp.load_default()), images(Pipeline.from_pretrained(tmp_path / "out"))
        assert torch.equal(shipped, exported)

    def test_bad_folders(self, tmp_path, refused):
        assert "has no model_index.json" in refused("export", "--model", tmp_path, "--output", tmp_path / "out")
