"""The launcher files are read by accelerate; ``test_layout.py`` trains with the one for CPUs."""

import pytest
from accelerate.commands.config.config_args import load_config_from_file

from training_runs import SCRIPTS, make_config, train

FOLDER = SCRIPTS / "accelerate"
EXPECTED = {  # processes, machines
    "cpu": (2, 1),
    "one_gpu": (1, 1),
    "several_gpus": (4, 1),
    "several_machines": (8, 2),
}


def test_there_are_no_others():
    assert {file.stem for file in FOLDER.iterdir()} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_it(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert (config.num_processes, config.num_machines) == EXPECTED[name]
    assert (config.distributed_type.value == "NO") == (config.num_processes == 1)


def test_a_launcher_that_cuts_networks_into_shards_is_refused(digits_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="cuts networks into shards .* Launch with training/accelerate/several_gpus"):
        train("vae", make_config("vae", digits_folder, tmp_path))


@pytest.mark.parametrize(("name", "value"), [("GRADIENT_ACCUMULATION_STEPS", "4"), ("MIXED_PRECISION", "bf16")])
def test_a_launcher_that_says_otherwise_than_the_settings_is_refused(digits_folder, tmp_path, monkeypatch, name, value):
    monkeypatch.setenv(f"ACCELERATE_{name}", value)
    with pytest.raises(
        ValueError, match=f"The launcher sets {name.lower()} {value} .* or give --{name.lower()} {value}"
    ):
        train("vae", make_config("vae", digits_folder, tmp_path))
