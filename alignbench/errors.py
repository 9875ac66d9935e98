"""What a user can fix, each kind with its exit code; anything else is a bug and keeps its traceback."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line: versioned public API."""

    DONE = 0
    FAILED = 1
    """The run finished; at least one cell failed."""
    USAGE = 2
    """The recipe or the command line is wrong."""
    INTERNAL = 3
    DATA = 4
    PLUGIN = 5
    STORAGE = 6
    SECURITY = 7
    INTERRUPTED = 130
    TERMINATED = 143


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, what, and how to fix it. Lines and columns count from 1."""

    what: str
    fix: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        text = ": ".join(part for part in (place, self.field, self.what) if part)
        return f"{text}; {self.fix}" if self.fix else text


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, or the name of its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class AlignbenchError(Exception):
    """The root of everything a user can fix. `problems` holds all of them, found at once.

    Raise it with a sentence, or with problems; `exit_code` is what the command line ends with.
    """

    exit_code: Exit = Exit.USAGE

    def __init__(self, what: str | Problem | Iterable[Problem], fix: str = "", *, total: int | None = None):
        if isinstance(what, str):
            what = Problem(what, fix)
        self.problems: tuple[Problem, ...] = (what,) if isinstance(what, Problem) else tuple(what)
        self.total = len(self.problems) if total is None else total
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems]
        if self.total > len(lines):
            lines.append(f"... and {self.total - len(lines)} more")
        return "\n".join(lines)

    def as_json(self) -> dict:
        """The error as the versioned record that `--json` prints."""
        return {
            "error": type(self).__name__,
            "exit_code": int(self.exit_code),
            "problems": [asdict(problem) for problem in self.problems],
            "total": self.total,
        }


class RecipeError(AlignbenchError, ValueError):
    """The recipe, or an option of the command line, says something that cannot be run."""

    exit_code = Exit.USAGE


class DataError(AlignbenchError, ValueError):
    """Rows that cannot be read, or too few that can be used."""

    exit_code = Exit.DATA


class PluginError(AlignbenchError, LookupError):
    """A plugin that is missing, broken, clashing, or that broke the contract."""

    exit_code = Exit.PLUGIN


class ModelError(AlignbenchError, ValueError):
    """A model or tokenizer that cannot be loaded or used as asked."""

    exit_code = Exit.USAGE


class StorageError(AlignbenchError, OSError):
    """A disk that is full, read-only or gone, or an artefact that is corrupt beyond repair."""

    exit_code = Exit.STORAGE


class SecurityError(AlignbenchError, PermissionError):
    """Something that would run foreign code or leave its folder; the message names the rule."""

    exit_code = Exit.SECURITY


class Diverged(AlignbenchError, ArithmeticError):
    """A loss or gradient that is not finite: the weights of the last good step are kept."""

    exit_code = Exit.FAILED
