"""What observers may watch: the events of a run, in the parent process. An observer never stops a run."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from alignbench import plugins

if TYPE_CHECKING:
    from alignbench.recipe.schema import Recipe
    from alignbench.results import Results

hookspec = pluggy.HookspecMarker("alignbench")
hookimpl = pluggy.HookimplMarker("alignbench")
"""Marks an observer's method as a hook. It may take fewer arguments than the hook gives."""


class Spec:
    """The hooks, in the order in which a run calls them."""

    @hookspec
    def alignbench_run_started(self, recipe: Recipe, folder: Path) -> None:
        """The recipe is checked and `folder` exists; no cell has begun."""

    @hookspec
    def alignbench_cell_started(self, label: str, seed: int) -> None:
        """A cell's process begins. A cell that is already finished is not started."""

    @hookspec
    def alignbench_step(self, label: str, seed: int, step: int, numbers: Mapping[str, float]) -> None:
        """A cell logged numbers: loss, rewards, learning rate."""

    @hookspec
    def alignbench_cell_finished(self, label: str, seed: int, status: str, reason: str) -> None:
        """A cell ended as `done`, `failed`, `diverged`, `blocked` or `cancelled`."""

    @hookspec
    def alignbench_run_finished(self, results: Results, folder: Path) -> None:
        """`results.json` is written."""


class Observers:
    """The observers of one run. One that raises, or names an unknown hook, is dropped with a warning."""

    def __init__(self, observers: Mapping[str, object] | None = None):
        self._manager = pluggy.PluginManager("alignbench")
        self._manager.add_hookspecs(Spec)
        for name, observer in (observers or {}).items():
            self._add(name, observer)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are not dropped."""
        return tuple(name for name, _ in self._manager.list_name_plugin())

    def notify(self, hook: str, **facts: Any) -> None:
        """Call `hook` of every observer."""
        for name, observer in self._manager.list_name_plugin():
            others = [other for _, other in self._manager.list_name_plugin() if other is not observer]
            try:
                self._manager.subset_hook_caller(hook, others)(**facts)
            except Exception as error:
                whose = plugins.blamed(error)
                self._drop(name, str(whose or f"{hook} raised {type(error).__name__}: {error}"))

    def _add(self, name: str, observer: object) -> None:
        try:
            self._manager.register(observer, name)
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            self._drop(name, " ".join(str(error).split()))

    def _drop(self, name: str, reason: str) -> None:
        self._manager.unregister(name=name)
        warnings.warn(
            f"the observer '{name}' is switched off, the run goes on: {reason}", RuntimeWarning, stacklevel=3
        )


def installed() -> Observers:
    """Return all installed observers. A broken one is left out with a warning."""
    made: dict[str, object] = {}
    for name in plugins.installed("hooks"):
        try:
            made[name] = plugins.load("hooks", name)()
        except Exception as error:
            warnings.warn(f"the observer '{name}' is left out: {error}", RuntimeWarning, stacklevel=2)
    return Observers(made)
