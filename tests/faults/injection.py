"""Faults at the N-th file mutation: an audit hook sees every change Python makes to the disk."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path

MUTATIONS = {
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
    "shutil.rmtree",
    "os.link",
    "os.symlink",
}


class Faults:
    """Counts the mutations below `root`; at the `at`-th it fails with `act`."""

    def __init__(self) -> None:
        self.armed = False
        self.seen = 0
        self.at: int | None = None
        self.act: Callable[[], None] = lambda: None
        self.root = ""
        sys.addaudithook(self._hook)  # a hook cannot be taken out again, so there is one for all tests

    def _hook(self, event: str, args: tuple) -> None:
        if not self.armed or not self._mutates(event, args):
            return
        self.seen += 1
        if self.seen == self.at:
            self.act()

    def _mutates(self, event: str, args: tuple) -> bool:
        if event == "open":
            path, _, flags = args
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(flags, int) else False
            return writes and isinstance(path, (str, os.PathLike)) and str(path).startswith(self.root)
        return event in MUTATIONS and str(args[0]).startswith(self.root)

    def run(self, work: Callable[[], None], root: Path, at: int | None, act: Callable[[], None]) -> int:
        """Run `work` and return how many mutations it made before it ended or failed."""
        self.seen, self.at, self.act, self.root, self.armed = 0, at, act, str(root), True
        try:
            work()
        finally:
            self.armed = False
        return self.seen


def disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken_disk() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def killed(work: Callable[[], None], faults: Faults, root: Path, at: int) -> bool:
    """Run `work` in a forked child that dies like by kill -9 at the `at`-th mutation; True if it died."""
    child = os.fork()
    if child == 0:
        try:
            faults.run(work, root, at, lambda: os._exit(9))
        except BaseException:
            os._exit(3)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9), "the work itself failed"
    return code == 9
