"""A folder on disk is the old one or the new one, and damage to it is noticed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_guided_pipeline.storage import atomic
from mnist_guided_pipeline.storage.atomic import (
    MANIFEST,
    IntegrityError,
    atomic_folder,
    atomic_write,
    verify_manifest,
    write_manifest,
)


def write(target, text: str) -> None:
    with atomic_folder(target) as partial:
        (partial / "a.txt").write_text(text)
        (partial / "inner").mkdir()
        (partial / "inner" / "b.bin").write_bytes(text.encode() * 100)


@pytest.fixture
def folder(tmp_path):
    target = tmp_path / "runs" / "result"
    write(target, "old")
    return target


def assert_holds(folder, text: str) -> None:
    """The whole folder, sound, and nothing left beside it."""
    assert verify_manifest(folder)
    assert (folder / "a.txt").read_text() == text
    assert (folder / "inner" / "b.bin").read_bytes() == text.encode() * 100
    assert os.listdir(folder.parent) == [folder.name]


class TestAtomicFolder:
    def test_the_new_takes_the_place_of_the_old(self, folder):
        assert_holds(folder, "old")
        write(folder, "new")
        assert_holds(folder, "new")

    def test_what_the_old_had_besides_is_gone(self, folder):
        with atomic_folder(folder) as partial:
            (partial / "only.txt").write_text("new")
        assert sorted(os.listdir(folder)) == [MANIFEST, "only.txt"]

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_error_in_the_block_leaves_the_old(self, folder, error):
        with pytest.raises(error), atomic_folder(folder) as partial:
            (partial / "a.txt").write_text("half")
            raise error
        assert_holds(folder, "old")

    def test_an_error_in_the_first_block_leaves_nothing(self, tmp_path):
        with pytest.raises(RuntimeError), atomic_folder(tmp_path / "result"):
            raise RuntimeError
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize("rename", [1, 2])
    def test_a_rename_that_fails_leaves_the_old(self, folder, monkeypatch, rename):
        calls, real = [], os.rename

        def failing(source, target):
            calls.append(source)
            if len(calls) == rename:
                raise OSError("disk")
            real(source, target)

        monkeypatch.setattr(os, "rename", failing)
        with pytest.raises(OSError, match="disk"):
            write(folder, "new")
        assert_holds(folder, "old")

    @pytest.mark.parametrize(("rename", "left"), [(1, "old"), (2, None), (3, "new")])
    def test_a_process_killed_at_a_rename_is_made_good_by_the_next(self, folder, rename, left):
        """Killed before the first rename, between both, and after them, while the backup is removed."""
        script = f"""
import os, shutil, sys
sys.path.append({str(Path(atomic.__file__).parent)!r})  # the file alone: importing the package takes seconds
from atomic import atomic_folder
calls, real = [], os.rename
def dying(source, target):
    calls.append(source)
    if len(calls) == {rename}:
        os._exit(9)
    real(source, target)
os.rename = dying
shutil.rmtree = lambda *arguments, **options: os._exit(9)
with atomic_folder({str(folder)!r}) as partial:
    (partial / "a.txt").write_text("new")
"""
        assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 9
        assert ((folder / "a.txt").read_text() if folder.exists() else None) == left
        with pytest.raises(RuntimeError), atomic_folder(folder):
            raise RuntimeError
        assert (folder / "a.txt").read_text() == (left or "old") and verify_manifest(folder)
        write(folder, "newest")
        assert (folder / "a.txt").read_text() == "newest" and verify_manifest(folder)
        assert not (folder.parent / ".result.backup").exists()


class TestAtomicWrite:
    @pytest.mark.parametrize(("content", "expected"), [("t\u00e9xt", "t\u00e9xt".encode()), (b"\x00\x01", b"\x00\x01")])
    def test_writes_and_replaces(self, tmp_path, content, expected):
        atomic_write(tmp_path / "new" / "file", "before")
        atomic_write(tmp_path / "new" / "file", content)
        assert (tmp_path / "new" / "file").read_bytes() == expected
        assert os.listdir(tmp_path / "new") == ["file"]

    def test_an_error_leaves_the_old(self, tmp_path):
        atomic_write(tmp_path / "file", "before")
        with pytest.raises(TypeError):
            atomic_write(tmp_path / "file", 3)
        assert (tmp_path / "file").read_text() == "before" and os.listdir(tmp_path) == ["file"]


class TestManifest:
    def test_a_flipped_bit_is_noticed(self, folder):
        content = bytearray((folder / "inner" / "b.bin").read_bytes())
        content[137] ^= 1
        (folder / "inner" / "b.bin").write_bytes(content)
        with pytest.raises(IntegrityError, match="b.bin is damaged"):
            verify_manifest(folder)

    def test_a_missing_file_is_noticed(self, folder):
        (folder / "a.txt").unlink()
        with pytest.raises(IntegrityError, match="a.txt is missing"):
            verify_manifest(folder)

    @pytest.mark.parametrize("name", ["../outside", "inner/../../outside", "/etc/hostname"])
    def test_a_path_outside_is_not_followed(self, folder, name):
        (folder.parent / "outside").write_text("x")
        (folder / MANIFEST).write_text(json.dumps({name: "0" * 64}))
        with pytest.raises(IntegrityError, match="outside its folder"):
            verify_manifest(folder)

    @pytest.mark.parametrize("text", ["", "{", "[1]", "\x00"])
    def test_a_damaged_manifest_is_noticed(self, folder, text):
        (folder / MANIFEST).write_text(text)
        with pytest.raises(IntegrityError, match="cannot be read"):
            verify_manifest(folder)

    def test_a_folder_without_one_is_not_said_to_be_sound(self, tmp_path):
        (tmp_path / "a.txt").write_text("x")
        assert verify_manifest(tmp_path) is False
        write_manifest(tmp_path)
        assert verify_manifest(tmp_path) is True
