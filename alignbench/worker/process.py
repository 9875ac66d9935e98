"""The entry point of a child process: it reads a task, runs it, and writes its log and its end."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from alignbench import heartbeat, plugins
from alignbench.api.launcher import HEARTBEAT, Finished, Task
from alignbench.errors import AlignbenchError, Diverged
from alignbench.store import as_storage_error
from alignbench.worker.clock import busy_clock

PRELOAD = ("alignbench.worker.preload",)
"""What the fork server imports once for all children. Never on a machine with a CUDA device: bitsandbytes
initialises the device when imported, and a forked child cannot use it then."""

STACKS = signal.SIGUSR1
"""Makes a child write the stack of every thread into its log, even where it hangs in C."""


def main(task: Task, pipe: Connection) -> None:
    """Run one task to its end; the process exits 0 only after its result was sent."""
    # A group of its own, so that the parent can end a child together with whatever the child has started.
    os.setpgid(0, 0)
    _die_with_parent()
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(sign, heartbeat.ask_to_stop)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(task.threads)
    if task.device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.device
    with _logged(task.log):
        faulthandler.enable()
        faulthandler.register(STACKS)
        heartbeat.connect(lambda: pipe.send(HEARTBEAT))
        try:
            _run(task, pipe)
            result = Finished()
        except BaseException as error:
            result = _result(error, task)
        with suppress(OSError):  # the log may lie on the disk that is full
            sys.stdout.flush()
            sys.stderr.flush()
    pipe.send(replace(result, clock=busy_clock()).plain())
    pipe.close()


def _result(error: BaseException, task: Task) -> Finished:
    """Return how a task ends that raised; the log gets the traceback of an unexpected error."""
    if isinstance(error, KeyboardInterrupt):
        return Finished("cancelled", "interrupted")
    error = as_storage_error(error, task.run, task.home) or error
    if isinstance(error, AlignbenchError):
        return Finished("diverged" if isinstance(error, Diverged) else "failed", str(error), error)
    with suppress(OSError):
        traceback.print_exception(error)
    if isinstance(error, MemoryError) or "OutOfMemory" in repr(error):
        smaller = "a smaller training.micro_batch or data.max_length needs less"
        what = " ".join([type(error).__name__, *str(error).splitlines()[:1]])
        return Finished("failed", f"out of memory ({what}); {smaller}")
    if (found := plugins.blamed(error)) is not None:
        return Finished("failed", str(found), found)
    return Finished("failed", f"{type(error).__name__}: {error}")


def _run(task: Task, pipe: Connection) -> None:
    import torch

    from alignbench.models import stack

    stack.import_bitsandbytes()
    torch.set_num_threads(task.threads)
    if task.kind == "prepare":
        from alignbench.worker.tasks.prepare import main as work
    elif task.kind == "cell":
        from alignbench.worker.tasks.cell import main as work
    elif task.kind == "measure":
        from alignbench.worker.tasks.measure import main as work
    elif task.kind == "judge":
        from alignbench.worker.tasks.judging import main as work
    elif task.kind == "calibrate":
        from alignbench.worker.tasks.calibrate import main as work
    else:
        from alignbench.worker.tasks.evaluate import main as work
    work(task, lambda event: pipe.send(replace(event, clock=busy_clock())))


def _die_with_parent() -> None:
    """End this process, and whatever it has started, as soon as the run's process is gone.

    The kernel's own signal would be about the fork server, which runs as long as any of its children does.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextmanager
def _logged(path: Path):
    """Send everything the process prints, libraries written in C included, to its log file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    yield
