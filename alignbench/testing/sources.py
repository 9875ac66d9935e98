"""The laws every data source keeps."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pytest

from alignbench.api.data import Source
from alignbench.rows import Row, can_derive
from alignbench.testing.plugin import PluginSuite

MANY, FEW = 40, 7


class SourceSuite(PluginSuite):
    """Subclass it, name the source, and pytest does the rest. Set `config` where it needs a file."""

    group = "data"
    source: ClassVar[str]
    root: ClassVar[Path] = Path()
    """The folder that relative paths of the config start from."""

    @classmethod
    def name(cls) -> str:
        return cls.source

    def _read(self, limit: int | None = MANY, seed: int = 0) -> list[Row]:
        made: Source = self.kind()(self.fields(), root=self.root)
        return list(made.rows("train", limit, seed))

    def test_it_has_rows_and_no_more_than_it_was_asked_for(self):
        assert self._read(), "it has no rows"
        assert len(self._read(FEW)) <= FEW, "it has more rows than it was asked for"

    def test_the_same_seed_gives_the_same_rows(self):
        assert self._read() == self._read(), "read again, it has other rows"

    def test_a_larger_limit_only_adds_rows_at_the_end(self):
        few = self._read(FEW)
        assert self._read(MANY)[: len(few)] == few, "a larger limit changes the first rows"

    def test_the_ids_of_the_rows_are_unique(self):
        ids = [row.id for row in self._read()]
        assert len(set(ids)) == len(ids), "several rows have one id"

    def test_every_row_has_the_view_that_the_source_names(self):
        view = self.kind()(self.fields(), root=self.root).view()
        rows = self._read()
        kinds = {type(row) for row in rows}
        assert len(kinds) == 1, f"rows of several views: {sorted(kind.__name__ for kind in kinds)}"
        if view is not None:
            rows_of = ", ".join(sorted(kind.__name__ for kind in kinds))
            assert all(can_derive(kind, view) for kind in kinds), (
                f"it names the view {view.__name__}, which {rows_of} rows have not"
            )

    def test_it_leaves_the_tokens_to_the_core(self):
        """Its rows are tokenised once, equally for all methods."""
        for row in self._read(FEW):
            held = [name for name in type(row).__dataclass_fields__ if name.endswith("ids")]
            assert not any(getattr(row, name) for name in held), f"{row.id} has token ids already"
            assert row.length == 0

    def test_its_rows_are_of_the_words_that_conversations_have(self):
        for row in self._read(FEW):
            for turn in getattr(row, "prompt", ()):
                assert turn.get("role") in ("system", "user", "assistant"), (
                    f"{turn.get('role')!r} is not a role"
                )
                assert isinstance(turn.get("content"), str), turn

    @pytest.mark.parametrize("split", ["validation", "test"])
    def test_splits_of_its_own_share_no_row_with_training(self, split):
        made: Source = self.kind()(self.fields(), root=self.root)
        if not made.owns_splits:
            pytest.skip("its validation and test rows are split off the training rows")
        assert not {row.id for row in made.rows(split, MANY, 0)} & {row.id for row in self._read()}
