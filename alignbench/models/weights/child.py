"""Questions about a model that need torch, answered by a process of its own: the one that asks loads none."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alignbench import layout, store
from alignbench.data import gguf
from alignbench.errors import ModelError, Problem
from alignbench.models.arithmetic import Compute
from alignbench.recipe.schema import Model
from alignbench.versions import versions

if TYPE_CHECKING:
    from alignbench.store import Store

Question = Literal["targets", "weights", "loaded", "compute"]


class UnansweredError(Exception):
    """The process that was asked ended without an answer; the message is its last line."""


def check_targets(where: Path, model: Model) -> None:
    """Raise ModelError where the recipe's adapter names a layer that can have none, or has dropout where none can be.

    `where` is the model's folder or GGUF file. Raises UnansweredError where the model cannot be built.
    """
    _ask("targets", where, model)


def weights(where: Path, model: Model, kept: Store) -> dict[str, Any]:
    """Return the number of `weights` of a local model, and the `shares` of `Weights`, by its configuration.

    Raises as `check_targets` does. An answer is kept in the store: asking takes seconds.
    """
    config = gguf.key(where, "text") if where.is_file() else store.file_digest(where / "config.json")
    how = model.model_dump(mode="json", include={"quantization", "adapter"})
    key = store.digest({"weights of": config, **how, "versions": versions()})
    with suppress(OSError):
        if (found := kept.find(key)) is not None:
            return json.loads((found / layout.INSPECTED).read_text(encoding="utf-8"))
    answer = _ask("weights", where, model)
    with suppress(OSError):  # nothing is lost but time
        kept.make(
            key, lambda work: store.write_json(work / layout.INSPECTED, answer), producer="alignbench.models"
        )
    return answer


def loaded(model: Model, root: Path) -> dict[str, Any]:
    """Return `Base.record()` of a model, once it has been loaded. Raises ModelError where it cannot be a base."""
    try:
        return _ask("loaded", root, model)
    except UnansweredError as error:
        raise ModelError(f"{model.id} could not be loaded: {error}") from error


@cache
def compute() -> Compute:
    """Return in which precision this machine computes a large model fastest: see `alignbench.models.arithmetic`.

    float32 where it cannot be tried: it is right everywhere.
    """
    try:
        return _ask("compute", Path(), Model(id=""))["compute"]
    except UnansweredError:
        return "float32"


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
        lines = asked.stderr.strip().splitlines()
        raise UnansweredError(lines[-1] if lines else f"its process ended with {asked.returncode}")
    answer = json.loads(asked.stdout.splitlines()[-1])
    if problems := answer.get("problems"):
        raise ModelError([Problem(**problem) for problem in problems])
    return answer
