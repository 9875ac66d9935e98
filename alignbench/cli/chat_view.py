"""The policies of a run at one table: what each was asked, and its answers beside the others as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

if TYPE_CHECKING:
    from alignbench.api.config import Sampling
    from alignbench.engine.plan import Cell

NARROW = 32
"""Columns of a terminal below which answers stand one below the other."""


@dataclass
class Room:
    """The policies at one table, and what each has heard."""

    policies: Mapping[Cell, Any]
    sampling: Sampling
    talk: bool

    def __post_init__(self) -> None:
        self._heard: dict[Cell, list[dict[str, str]]] = {cell: [] for cell in self.policies}
        self._asked = 0

    def ask(self, question: str, console: Console) -> None:
        """Put a question to every policy and show the answers as they come."""
        said = dict.fromkeys(self.policies, "")
        at_work = set(self.policies)
        if not console.is_terminal:
            for _ in self.answers(question, said, at_work.discard):
                pass
            console.print(*(_block(cell, text) for cell, text in said.items()), sep="\n")
        else:
            with Live(console=console, refresh_per_second=12, vertical_overflow="visible") as live:
                for _ in self.answers(question, said, at_work.discard):
                    live.update(_beside(said, at_work, console.width))
                live.update(_beside(said, at_work, console.width))
        if self.talk:
            for cell, text in said.items():
                self._heard[cell].append({"role": "assistant", "content": text})
        else:
            self._heard = {cell: [] for cell in self.policies}

    def answers(self, question: str, said: dict[Cell, str], ended: Callable[[Cell], None]) -> Iterator[None]:
        """Fill `said`, a token of each policy in turn; those that cannot stream answer whole, at the end."""
        from alignbench.models.streaming import can_stream, stream
        from alignbench.rows import Prompt

        self._asked += 1
        asked = {}
        for cell in self.policies:
            self._heard[cell].append({"role": "user", "content": question})
            turns: Any = tuple(dict(turn) for turn in self._heard[cell])
            # The id keys the noise: every policy draws with the same.
            asked[cell] = Prompt(id=f"chat-{self._asked}", prompt=turns)
        streams = {
            cell: stream(policy, asked[cell], self.sampling, cell.seed)
            for cell, policy in self.policies.items()
            if can_stream(policy)
        }
        whole = [cell for cell in self.policies if cell not in streams]
        while streams:
            for cell in list(streams):
                text = next(streams[cell], None)
                if text is None:
                    del streams[cell]
                    ended(cell)
                else:
                    said[cell] = text
            yield
        for cell in whole:
            (answer,) = self.policies[cell].answer([asked[cell]], self.sampling, cell.seed)
            said[cell] = answer.text
            ended(cell)
            yield


def _beside(said: Mapping[Cell, str], at_work: set[Cell], width: int) -> Columns:
    from alignbench.report.text import visible

    each = max(NARROW, width // len(said) - 1)
    return Columns(
        [
            Panel(
                Text(visible(text) + (" \u258c" if cell in at_work else "")),
                title=Text(cell.label),
                width=min(each, width),
                border_style="dim" if cell in at_work else "cyan",
            )
            for cell, text in said.items()
        ],
        padding=(0, 0),
    )


def _block(cell: Cell, text: str) -> Text:
    from alignbench.report.text import visible

    return Text(f"[{cell.label}] {visible(text)}")
