"""Processes forked from this one, which has everything imported: they start at once, and a kill costs next to nothing.

Several processes of one training are watched over as torchrun does it: where one fails the others are sent SIGTERM, and
SIGKILL where that does not end them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from accelerate.state import AcceleratorState
from tqdm.auto import tqdm

PATIENCE = 60
"""Seconds for a process to end after SIGTERM; torchrun gives 30, on a machine that is not busy with other things."""

DEADLINE = 400
"""Seconds after which a run counts as hanging."""

HANGS = 1000
"""Exit status that stands for a process that had to be killed."""


def fork(task: Callable[[], None], log: Path) -> int:
    """Run ``task`` in a child with its output in a file; the child's id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        tqdm.set_lock(threading.RLock())  # the default is shared by forked processes, and one that is killed keeps it
        task()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException as error:  # noqa: BLE001 - reported by the parent
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def fork_ranks(task: Callable[[], None], log: Path, count: int) -> list[int]:
    """Run ``task`` in every process of a training, with what torchrun tells them; their ids by rank."""
    if count == 1:
        return [fork(task, log)]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def ranked(rank: int) -> None:
        AcceleratorState._reset_state(reset_partial_state=True)  # the parent's was of one process
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
        os.environ |= {"LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        os.environ |= {"ACCELERATE_USE_CPU": "true"}
        task()

    return [fork(lambda: ranked(rank), log) for rank in range(count)]  # noqa: B023 - called at once


def wait(children: list[int]) -> list[int]:
    """Exit statuses by rank, negative for a signal; none is waited for in vain."""
    statuses: dict[int, int] = {}
    asked, until = False, time.monotonic() + DEADLINE
    while len(statuses) < len(children):
        left = [child for child in children if child not in statuses]
        for child in left:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                statuses[child] = os.waitstatus_to_exitcode(status)
        left = [child for child in left if child not in statuses]
        if left and not asked and (any(statuses.values()) or time.monotonic() > until):
            send(signal.SIGTERM, left)
            asked, until = True, time.monotonic() + PATIENCE
        elif left and asked and time.monotonic() > until:
            send(signal.SIGKILL, left)
            statuses |= {child: HANGS for child in left if os.waitpid(child, 0)}
        time.sleep(0.005)
    return [statuses[child] for child in children]


def send(number: signal.Signals, children: list[int]) -> None:
    """Send a signal to processes, of which some may have ended."""
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
