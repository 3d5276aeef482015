"""A folder or a Hub id: one rule, and what records show of either."""

import os

import pytest

from mnist_guided_pipeline.storage.places import find_folder, public_name


def test_a_folder_wins_over_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_folder("user/name") is None
    os.makedirs("user/name")
    assert str(find_folder("user/name")) == "user/name"
    assert find_folder(tmp_path / "user") == tmp_path / "user"


def test_the_backup_of_a_killed_save_is_found(tmp_path):
    (tmp_path / ".name.backup").mkdir()
    assert find_folder(tmp_path / "name") == tmp_path / ".name.backup"


@pytest.mark.parametrize(
    "name", ["runs", "./user/name", "/user/name", "~/name", "../name", "a/b/c", "user/", "", "a b/c"]
)
def test_what_is_neither_is_named(name):
    with pytest.raises(FileNotFoundError) as error:
        find_folder(name, "--model")
    assert str(error.value) == f"--model {name!r} is neither a folder nor a Hub id such as 'user/name'."


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("user/name", "user/name"),
        ("runs/vae", "runs/vae"),
        ("/home/me/runs/vae/", "vae"),
        ("~/vae", "vae"),
        ("../vae", "vae"),
    ],
)
def test_public_names_are_of_no_machine(name, shown):
    assert public_name(name) == shown
