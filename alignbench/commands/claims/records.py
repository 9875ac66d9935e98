"""The evidence of finished runs, in a file next to the registry: whoever has the file goes on from there.

A run takes hours and gigabytes; what it says of a part is a few numbers. The file can be committed, so that a
procedure of several looks is continued on another machine, and a changed registry is refused there as well.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from alignbench import layout, sandbox, stats, store
from alignbench.commands.claims.evidence import Evidence
from alignbench.commands.claims.registry import Registry, refuse_change

Place = tuple[str, int]
"""A claim and the place of one of its parts."""
REPLICATION = "replication"


class Records:
    """The evidence of each part at each look, of one registry and one sandbox."""

    def __init__(self, registry: Registry):
        self._registry = registry
        # Runs of a changed sandbox get a new file next to the old one.
        self.file = registry.folder / layout.EVIDENCE.format(sandbox.FINGERPRINT[:12])
        self._looks: dict[str, dict[str, list[Any]]] = {}
        self.made: dict[str, dict[str, Any]] = {}
        """By look and run: when, with which versions and on what kind of machine it was made."""
        for file in sorted(registry.folder.glob(layout.EVIDENCE.format("*"))):
            # What another sandbox has shown is known too: its seeds have answered this registry.
            refuse_change(registry, json.loads(file.read_text(encoding="utf-8")), file)
        self._refresh()

    def begin(self) -> None:
        """Write the registry down before the first seed. Raises StorageError where that cannot be done."""
        if not self.file.exists():
            self._write()

    def of(self, look: str) -> dict[Place, Evidence]:
        """Return what is on record of a look."""
        return {
            (claim, place): _read(one)
            for claim, parts in self._looks.get(look, {}).items()
            for place, one in enumerate(parts)
            if one is not None
        }

    def keep(self, look: str, found: Mapping[Place, Evidence], made: Mapping[str, Any]) -> None:
        """Add the evidence of finished runs, and how these were made.

        What is on record stays, also what another process has put there since this one has read the file.
        """
        if not found.keys() - self.of(look).keys():
            return
        with store.alone(self.file.parent, wait=True):
            self._refresh()
            for claim, place in found.keys() - self.of(look).keys():
                parts = self._looks.setdefault(look, {}).setdefault(
                    claim, [None] * len(self._registry.claims[claim].parts)
                )
                parts[place] = _written(found[claim, place])
            self.made[look] = {**made, **self.made.get(look, {})}
            self._write()

    def _refresh(self) -> None:
        """Take what is in the file now. Raises RecipeError where it is of another registry."""
        if self.file.exists():
            read = json.loads(self.file.read_text(encoding="utf-8"))
            refuse_change(self._registry, read, self.file)
            self._looks, self.made = read["looks"], read.get("made", {})

    def _write(self) -> None:
        store.write_json(self.file, {**self._registry.record, "looks": self._looks, "made": self.made})


def _written(one: Evidence) -> dict[str, Any]:
    """JSON has no infinity: a mean without bounds has no `span`."""
    fields = asdict(one)
    estimate = fields["estimate"]
    if estimate is not None and not all(map(math.isfinite, estimate["span"])):
        del estimate["span"]
    return fields


def _read(fields: dict[str, Any]) -> Evidence:
    estimate = fields["estimate"]
    if estimate is not None:
        estimate = dict(estimate)
        if "span" in estimate:
            estimate["span"] = tuple(estimate["span"])
        estimate = stats.Estimate(**estimate)
    return Evidence(**{**fields, "estimate": estimate})
