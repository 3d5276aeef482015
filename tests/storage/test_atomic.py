"""A folder on disk is the old one or the new one, and damage to it is noticed."""

import itertools
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator

import pytest

from mnist_guided_pipeline.storage.atomic import (
    MANIFEST,
    IntegrityError,
    atomic_folder,
    atomic_write,
    standing_folder,
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
        (folder / "besides.txt").write_text("x")
        write(folder, "new")
        assert_holds(folder, "new")
        assert not (folder / "besides.txt").exists()

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_an_error_in_the_block_leaves_the_old(self, folder, error):
        with pytest.raises(error), atomic_folder(folder) as partial:
            (partial / "a.txt").write_text("half")
            raise error
        assert_holds(folder, "old")
        with pytest.raises(error), atomic_folder(folder / "fresh" / "result"):
            raise error
        assert os.listdir(folder / "fresh") == []

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

    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    def test_a_process_killed_at_any_step_is_made_good_by_the_next(self, folder):
        """Killed before a flush or a rename, between the two renames, or while the backup is removed."""
        steps = steps_of_a_child(lambda: write(folder, "new"), killed_at=0)
        for killed_at in range(1, steps + 1):
            write(folder, "old")
            assert steps_of_a_child(lambda: write(folder, "new"), killed_at) == killed_at
            standing = standing_folder(folder)
            left = (standing / "a.txt").read_text()
            assert verify_manifest(standing) and left == ("old" if killed_at <= steps - 2 else "new")
            with pytest.raises(RuntimeError), atomic_folder(folder):
                raise RuntimeError
            assert (folder / "a.txt").read_text() == left and not (folder.parent / ".result.backup").exists()
        assert steps > 6


def steps_of_a_child(action: Callable[[], None], killed_at: int) -> int:
    """How many files are flushed, folders renamed and removed, in a process that dies instead of one of them."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        count = itertools.count(1)
        for module, name in ((os, "fsync"), (os, "rename"), (shutil, "rmtree")):
            setattr(module, name, stepping(getattr(module, name), count, writer, killed_at))
        action()
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as steps:
        os.waitpid(child, 0)
        return len(steps.read())


def stepping(function: Callable, count: Iterator[int], writer: int, killed_at: int) -> Callable:
    def step(*arguments, **options):
        os.write(writer, b".")
        if next(count) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return step


class TestAtomicWrite:
    @pytest.mark.parametrize(("content", "expected"), [("t\u00e9xt", "t\u00e9xt".encode()), (b"\x00\x01", b"\x00\x01")])
    def test_writes_and_replaces_or_leaves_the_old(self, tmp_path, content, expected):
        atomic_write(tmp_path / "new" / "file", "before")
        atomic_write(tmp_path / "new" / "file", content)
        with pytest.raises(TypeError):
            atomic_write(tmp_path / "new" / "file", 3)
        assert (tmp_path / "new" / "file").read_bytes() == expected and os.listdir(tmp_path / "new") == ["file"]


class TestManifest:
    def test_a_flipped_bit_and_a_missing_file_are_noticed(self, folder):
        content = bytearray((folder / "inner" / "b.bin").read_bytes())
        content[137] ^= 1
        (folder / "inner" / "b.bin").write_bytes(content)
        with pytest.raises(IntegrityError, match="b.bin is damaged"):
            verify_manifest(folder)
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
