"""Trackers: a cell's numbers go where transformers' `report_to` sends a trainer's; a run for each cell."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench import layout
from alignbench.errors import PluginError, RecipeError

if TYPE_CHECKING:
    from transformers import TrainerCallback

TRACKERS = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb", "trackio": "trackio"}
"""What transformers calls a tracker, and the package it needs."""

QUIET = {
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",
    "WANDB_DISABLE_CODE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
}
"""Trackers do not send usage data to their makers, unless the user wants it."""


def check_trackers(names: Iterable[str]) -> None:
    """Raise RecipeError for a tracker nobody knows, PluginError for one that is not installed."""
    for name in names:
        if name not in TRACKERS:
            raise RecipeError(f"there is no tracker '{name}'", f"choose one of {', '.join(TRACKERS)}")
        if find_spec(TRACKERS[name]) is None:
            raise PluginError(f"the tracker '{name}' is not installed", f"pip install {TRACKERS[name]}")


class Tracking:
    """transformers' own callbacks, called with what a cell logs. Imports transformers where there is a tracker.

    A tracker that fails is dropped, and `lost` gets its name and the reason: the cell continues without it.
    """

    def __init__(
        self,
        names: Iterable[str],
        run: Path,
        label: str,
        seed: int,
        config: Mapping[str, Any],
        lost: Callable[[str, str], None] = lambda name, why: None,
    ):
        self._callbacks: dict[str, TrainerCallback] = {}
        self._lost = lost
        names = list(names)
        # Not in the cells: a cell's folder is sealed, and a tracker writes times.
        folder, project = run / layout.TRACKING / layout.cell_name(label, seed), run.resolve().name
        if not names:
            return
        import os

        from transformers import TrainerControl, TrainerState, TrainingArguments
        from transformers.integrations.integration_utils import get_reporting_integration_callbacks

        for setting, value in QUIET.items():
            os.environ.setdefault(setting, value)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder)
        os.environ.setdefault("WANDB_DIR", str(folder))
        os.environ.setdefault("WANDB_PROJECT", project)
        os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", project)
        self._args = TrainingArguments(
            output_dir=str(folder),
            run_name=f"{project}/{layout.cell_name(label, seed)}",
            project=project,
            report_to=names,
            use_cpu=True,
            disable_tqdm=True,
        )
        self._state = TrainerState(is_world_process_zero=True, is_local_process_zero=True)
        self._control = TrainerControl()
        self._model = _Described(config)
        with _alone(run / layout.TRACKING / layout.TRACKING_LOCK):
            for name in names:
                try:
                    (kind,) = get_reporting_integration_callbacks([name])
                    self._callbacks[name] = kind()
                except Exception as error:  # a tracker may fail in any way
                    self._lost(name, _line(error))
            self._call("on_train_begin", model=self._model)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Pass what was logged to every tracker."""
        if self._callbacks:
            self._state.global_step = step
            self._call("on_log", model=self._model, logs=dict(numbers))

    def end(self) -> None:
        """Close the cell's run at every tracker."""
        if self._callbacks:
            self._call("on_train_end", model=self._model)
        self._callbacks = {}

    def _call(self, event: str, **arguments: Any) -> None:
        for name, callback in list(self._callbacks.items()):
            try:
                getattr(callback, event)(self._args, self._state, self._control, **arguments)
            except Exception as error:  # a tracker may fail in any way
                del self._callbacks[name]
                self._lost(name, _line(error))


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let one cell at a time open its trackers: two that make one database at once spoil it."""
    with lock.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


class _Described:
    """Takes the place of the model whose config trackers log: they get the method's block."""

    def __init__(self, config: Mapping[str, Any]):
        self.config = _Block(config)


class _Block(dict):
    def to_dict(self) -> dict[str, Any]:
        return dict(self)

    def to_json_string(self) -> str:
        import json

        return json.dumps(self, indent=1)
