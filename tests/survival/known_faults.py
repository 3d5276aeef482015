"""The faults that have a test each, counted: a test that passes is a fault survived."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

TESTS = {
    "damaged checkpoints": (
        "test_checkpoints.py::test_a_damaged_newest_checkpoint_is_named_and_skipped",
        "test_checkpoints.py::test_where_no_checkpoint_is_whole_a_run_does_not_silently_start_afresh",
        "test_checkpoints.py::test_other_settings_are_refused_naming_both_values",
    ),
    "damaged pipelines": (
        "test_safety.py::TestDamage::test_is_an_error_that_names_it",
        "test_safety.py::TestDamage::test_a_flipped_bit_is_noticed",
    ),
    "faulty data sets": ("test_data.py::TestRefusals",),
    "faulty Hub": (  # in one process: the scenes are played once
        "test_hub.py::test_a_push_is_whole_or_not_made",
        "test_hub.py::test_a_pull_is_identical_or_refused_by_name",
        "test_hub.py::test_without_the_network",
        "test_hub.py::test_what_is_not_there_or_not_allowed",
        "test_hub.py::test_a_repository_that_is_damaged_itself",
    ),
}


def known_faults(name: str) -> Iterator[bool]:
    """Whether each of the tests of this name passes; those that this machine cannot run are left out."""
    here = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        subprocess.run(
            [*command, *(str(here / test) for test in TESTS[name])],
            cwd=here.parent,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.DEVNULL,
            check=False,
        )
        cases = ElementTree.parse(report).getroot().iter("testcase")
        found = [{part.tag for part in case} for case in cases]
    yield from (not tags & {"failure", "error"} for tags in found if "skipped" not in tags)
