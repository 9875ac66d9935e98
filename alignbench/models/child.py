"""Questions about a model that need torch, answered by a process of its own: the one that asks loads none."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alignbench import store
from alignbench.errors import ModelError, Problem
from alignbench.models.arithmetic import Compute
from alignbench.recipe.schema import Model
from alignbench.versions import versions

if TYPE_CHECKING:
    from alignbench.store import Store

Question = Literal["targets", "weights", "loaded", "compute"]

WEIGHTS = "weights.json"


def check_targets(folder: Path, model: Model) -> None:
    """Raise ModelError where the recipe's adapter names a layer of a local model that can have none."""
    if model.adapter.targets != "all-linear":
        _ask("targets", folder, model)


def weights(folder: Path, model: Model, kept: Store) -> dict[str, Any]:
    """Return the number of `weights` of a local model, and the `shares` of `Weights`, by its configuration.

    Empty where they cannot be told without the weights. Raises ModelError as `check_targets` does. An answer is kept
    in the store: asking takes seconds.
    """
    config = store.file_digest(folder / "config.json")
    how = model.model_dump(mode="json", include={"quantization", "adapter"})
    key = store.digest({"weights of": config, **how, "versions": versions()})
    with suppress(OSError):
        if (found := kept.find(key)) is not None:
            return json.loads((found / WEIGHTS).read_text(encoding="utf-8"))
    answer = _ask("weights", folder, model)
    if answer:
        with suppress(OSError):  # nothing is lost but time
            kept.make(
                key, lambda work: store.write_json(work / WEIGHTS, answer), producer="alignbench.models"
            )
    return answer


def loaded(model: Model, root: Path) -> dict[str, Any]:
    """Return `Base.record()` of a model, once it has been loaded. Raises ModelError where it cannot be a base."""
    answer = _ask("loaded", root, model)
    if not answer:
        raise ModelError(f"{model.id} could not be loaded: the process that tried it ended without a word")
    return answer


@cache
def compute() -> Compute:
    """Return in which precision this machine computes a large model fastest: see `alignbench.models.arithmetic`."""
    return _ask("compute", Path(), Model(id="")).get("compute", "float32")


def _ask(question: Question, where: Path, model: Model) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "alignbench.models.child_process",
        question,
        str(where),
        model.model_dump_json(),
    ]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    if asked.returncode:
        return {}
    answer = json.loads(asked.stdout.splitlines()[-1])
    if problems := answer.get("problems"):
        raise ModelError([Problem(**problem) for problem in problems])
    return answer
