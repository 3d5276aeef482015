"""What the tests of the command share."""

from collections.abc import Callable

import pytest

from mnist_guided_pipeline.cli import main


@pytest.fixture
def refused(capsys) -> Callable[..., str]:
    """Run a command that must end with status 2 and one line on standard error; returns the line."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(list(map(str, arguments)))
        assert stop.value.code == 2
        printed = capsys.readouterr().err
        assert printed.startswith("error: ") and printed.count("\n") == 1
        return printed

    return run
