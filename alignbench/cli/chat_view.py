"""The chat view: conversations of several policies, with answers streamed side by side."""

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
    from alignbench.engine.cells import PlannedCell

NARROW = 32
"""Terminal columns of one answer, at least: narrower terminals show answers below each other."""


@dataclass
class ChatView:
    """Several policies, and the conversation of each."""

    policies: Mapping[PlannedCell, Any]
    sampling: Mapping[PlannedCell, Sampling]
    talk: bool

    def __post_init__(self) -> None:
        self._history: dict[PlannedCell, list[dict[str, str]]] = {cell: [] for cell in self.policies}
        self._asked = 0

    def ask(self, question: str, console: Console) -> None:
        """Ask every policy and show the answers as they are generated."""
        texts = dict.fromkeys(self.policies, "")
        unfinished = set(self.policies)
        if not console.is_terminal:
            for _ in self.answers(question, texts, unfinished.discard):
                pass
            console.print(*(_block(cell, text) for cell, text in texts.items()), sep="\n")
        else:
            with Live(console=console, refresh_per_second=12, vertical_overflow="visible") as live:
                for _ in self.answers(question, texts, unfinished.discard):
                    live.update(_side_by_side(texts, unfinished, console.width))
                live.update(_side_by_side(texts, unfinished, console.width))
        if self.talk:
            for cell, text in texts.items():
                self._history[cell].append({"role": "assistant", "content": text})
        else:
            self._history = {cell: [] for cell in self.policies}

    def answers(
        self, question: str, texts: dict[PlannedCell, str], ended: Callable[[PlannedCell], None]
    ) -> Iterator[None]:
        """Fill `texts`, one token of each policy in turn; policies that cannot stream answer last, in one piece."""
        from alignbench.models.streaming import can_stream, stream
        from alignbench.rows import Prompt

        self._asked += 1
        asked = {}
        for cell in self.policies:
            self._history[cell].append({"role": "user", "content": question})
            turns: Any = tuple(dict(turn) for turn in self._history[cell])
            # The prompt id seeds the sampling noise: all policies share it.
            asked[cell] = Prompt(id=f"chat-{self._asked}", prompt=turns)
        streams = {
            cell: stream(policy, asked[cell], self.sampling[cell], cell.seed)
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
                    texts[cell] = text
            yield
        for cell in whole:
            (answer,) = self.policies[cell].answer([asked[cell]], self.sampling[cell], cell.seed)
            texts[cell] = answer.text
            ended(cell)
            yield


def _side_by_side(texts: Mapping[PlannedCell, str], unfinished: set[PlannedCell], width: int) -> Columns:
    from alignbench.report.text import visible

    each = max(NARROW, width // len(texts) - 1)
    return Columns(
        [
            Panel(
                Text(visible(text) + (" \u258c" if cell in unfinished else "")),
                title=Text(cell.label),
                width=min(each, width),
                border_style="dim" if cell in unfinished else "cyan",
            )
            for cell, text in texts.items()
        ],
        padding=(0, 0),
    )


def _block(cell: PlannedCell, text: str) -> Text:
    from alignbench.report.text import visible

    return Text(f"[{cell.label}] {visible(text)}")
