"""What the cells of one process share: plan, base, table and store."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, Any

from alignbench import layout, store
from alignbench.api.launcher import Event, Task
from alignbench.api.policy import Policy
from alignbench.data.split import is_for_judges, is_in_stage
from alignbench.data.table import open_table
from alignbench.data.tokens import other_vocabulary
from alignbench.recipe.plan import Plan
from alignbench.recipe.schema import Recipe
from alignbench.rows import Row
from alignbench.versions import versions
from alignbench.worker.run.row_origins import TableIndex

if TYPE_CHECKING:
    from alignbench.models import Base


class Session:
    """What the cells of one process share: plan, base, table and store."""

    def __init__(self, task: Task, emit: Callable[[Event], None] = lambda event: None):
        self.task = task
        self.run = task.run
        self.root = task.root
        self.plan = Plan.model_validate_json(task.plan)
        self.emit = emit
        self.store = store.Store(task.home)
        self.table = open_table(task.run / layout.DATA)
        self._adapters = count(1)

    @property
    def recipe(self) -> Recipe:
        """The recipe as it was checked; what follows from it stands in `plan`."""
        return self.plan.recipe

    @property
    def base(self) -> Base:
        """The quantised base, loaded once."""
        return self._base

    @cached_property
    def _base(self) -> Base:
        from alignbench.models import load_base

        self.emit(Event(f"loading the base, {self.recipe.model.compute}"))
        return load_base(self.recipe.model, root=self.root, cache=self.store)

    def training_rows(self, view: type[Row]) -> Many[Row]:
        """Return the training rows that a method may see in a view."""
        rows, where = self.table.kept("train"), self.recipe.data.split
        if reserved := self.plan.reserved:
            rows = [row for row in rows if not is_for_judges(row, where, (0, reserved))]
        if self.recipe.data.stages == "disjoint":
            rows = [row for row in rows if is_in_stage(row, view, where)]
        return rows

    def held_out_rows(self, part: tuple[float, float]) -> list[Row]:
        """Return the part of the training rows, from and to, that judges are trained on."""
        where = self.recipe.data.split
        return [row for row in self.table.kept("train") if is_for_judges(row, where, part)]

    @cached_property
    def index(self) -> TableIndex:
        """The kept rows by id and by prompt."""
        return TableIndex(self.table)

    @cached_property
    def _data(self) -> str:
        sealed = store.manifest(self.run / layout.DATA)
        return "" if sealed is None else sealed["content"]

    def model(self, id: str) -> Policy:
        """Return another model of the same tokenizer as a policy."""
        from alignbench.models import load_base

        chosen = self.recipe.model.model_copy(
            update={"id": id, "revision": None, "gguf": None, "sha256": None}
        )
        other = load_base(chosen, root=self.root, cache=self.store)
        if other.tokenizer.get_vocab() != self.base.tokenizer.get_vocab():
            raise other_vocabulary(id, self.recipe.model.id)
        return other.policy()

    def base_key(self) -> dict[str, Any]:
        """Return what every shared key holds about base, data and environment."""
        return {"base": self.base.fingerprint, "data": self._data, "versions": versions()}

    def adapter_name(self, prefix: str) -> str:
        """Return a name for an adapter that no other has."""
        return f"{prefix}-{next(self._adapters)}"
