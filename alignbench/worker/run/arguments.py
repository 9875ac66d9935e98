"""Refuses what a method gives a run where it is of the wrong kind, and says what to give instead."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

from pydantic import ValidationError

from alignbench.api.config import NamedJudge
from alignbench.api.method import PerToken
from alignbench.errors import PluginError
from alignbench.rows import Row, Sequence


def groups(made: Any) -> Mapping[str, Any]:
    """Return what `sequences` has made. Raises PluginError where it is no mapping of names to sequences."""
    if not isinstance(made, Mapping):
        raise PluginError(
            f"`sequences` returned a {_kind(made)}",
            'return the sequences of each group by its name: {"chosen": [...], "rejected": [...]}',
        )
    for name, group in made.items():
        for one in getattr(group, "items", group):
            if not isinstance(one, Sequence):
                raise PluginError(
                    f"the group '{name}' of `sequences` holds a {_kind(one)}",
                    "give what row.sequences() returns, or Sequence(prompt_ids, response_ids)",
                )
    return made


def loss(made: Any) -> Any:
    """Return what `loss` has made. Raises PluginError where it is not a loss and numbers to log."""
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[1], Mapping)):
        parts = f"({', '.join(map(_kind, made))})" if isinstance(made, tuple) else f"a {_kind(made)}"
        raise PluginError(
            f"`loss` returned {parts}",
            "return the loss and a mapping of numbers to log, which may be empty: loss, {}",
        )
    for name, value in made[1].items():
        if not (isinstance(value, Real | PerToken) or hasattr(value, "ndim")):
            raise PluginError(
                f"the number '{name}' of `loss` is a {_kind(value)}",
                "log values per row [n] or per token [N, R], or a float",
            )
    return made


def batches(rows: Any) -> None:
    """Raise PluginError where what is trained on is neither a view of rows nor a function of the step."""
    if not callable(rows) and not hasattr(rows, "epoch"):
        raise PluginError(
            f"run.train got a {_kind(rows)} of rows",
            "give it run.rows(View), run.rows(View, given=rows) for rows of your own, or a function of the step",
        )


def view(kind: Any) -> None:
    """Raise PluginError where it is no view of the rows."""
    if not (isinstance(kind, type) and issubclass(kind, Row)):
        raise PluginError(
            f"run.rows got {kind!r}, which is no view",
            "give a class of alignbench: Pair, Demonstration, Prompt, ...",
        )


def judge(named: Any) -> None:
    """Raise PluginError where a judge is not named by a field of the config."""
    if not isinstance(named, NamedJudge):
        raise PluginError(
            f"run.judge got a {_kind(named)}",
            'give it a config field of type NamedJudge: judge: NamedJudge = NamedJudge(name="self")',
        )


def stage(method: Any) -> None:
    """Raise PluginError where a stage is not named by a text."""
    if not isinstance(method, str):
        raise PluginError(
            f"run.stage got a {_kind(method)}",
            "give it name and fields: run.stage(named.name, **named.config)",
        )


def wrong_fields(method: str, error: ValidationError) -> PluginError:
    """Return the error of a stage whose fields are wrong."""
    found = "; ".join(
        f"{'.'.join(map(str, one['loc'])) or 'its fields'}: {one['msg']}"
        for one in error.errors(include_url=False)
    )
    return PluginError(
        f"the stage '{method}' cannot have these fields: {found}", f"see alignbench methods {method}"
    )


def _kind(value: Any) -> str:
    return type(value).__name__
