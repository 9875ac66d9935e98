"""A policy on disk: written when its cell ends, rebuilt where another starts from it or it answers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alignbench import layout, store
from alignbench.api.method import Method
from alignbench.api.policy import Policy
from alignbench.recipe.configs import make
from alignbench.recipe.schema import AdapterStart, ModelStart, Start


def load_method(name: str, config: Mapping[str, Any]) -> Method:
    """Return the installed method `name` with its config."""
    return make("methods", name, config)


def save_policy(
    policy: Policy, folder: Path, *, method: str, config: Mapping[str, Any], start: Start
) -> None:
    """Write a policy so that `CellState.restored` rebuilds it, also where it is a decoder of a plugin's own."""
    from alignbench.models import ModelPolicy

    folder.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {
        "kind": "method",
        "method": method,
        "config": dict(config),
        "start": _say_start(start),
    }
    if isinstance(policy, ModelPolicy):
        record["kind"] = "base" if policy.adapter is None else "adapter"
    if record["kind"] != "base":
        policy.save(folder)
    store.write_json(folder / layout.POLICY_KIND, record)


def _say_start(start: Start) -> Any:
    return start if isinstance(start, str) else start.model_dump()


@dataclass(frozen=True)
class SavedPolicy:
    """What `policy.json` says of a saved policy."""

    kind: str
    """`base`, `adapter`, or `method` for a decoder of a plugin's own."""
    method: str
    config: Mapping[str, Any]
    start: Start


def read_policy(folder: Path) -> SavedPolicy:
    """Return what `save_policy` wrote next to the weights."""
    kept = json.loads((folder / layout.POLICY_KIND).read_text(encoding="utf-8"))
    start = kept["start"]
    if not isinstance(start, str):
        start = AdapterStart(**start) if "adapter" in start else ModelStart(**start)
    return SavedPolicy(kept["kind"], kept["method"], kept["config"], start)
