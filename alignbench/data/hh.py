"""Anthropic's HH text format: a conversation as one string of turns that begin with `Human:` and `Assistant:`.

Source: Bai et al. 2022, https://arxiv.org/abs/2204.05862. Japanese translations of it use the same words or
their Japanese forms.
"""

from __future__ import annotations

import re

from alignbench.rows import Messages

ROLES = {
    "Human": "user",
    "Assistant": "assistant",
    "人間": "user",
    "ヒューマン": "user",
    "ユーザー": "user",
    "アシスタント": "assistant",
}
_MARK = re.compile(rf"(?:\A|\n\n)\s*({'|'.join(ROLES)})\s?[:\uff1a]")


def is_hh(text: str) -> bool:
    """Return whether `text` is a conversation in this format: it begins with a turn of the human."""
    match = _MARK.match(text)
    return match is not None and ROLES[match[1]] == "user"


def messages(text: str) -> Messages:
    """Return the turns, without the blanks around them; a last empty turn waits for its answer."""
    _, *parts = _MARK.split(text)
    turns = [
        {"role": ROLES[speaker], "content": content.strip()}
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]
    return tuple(turns)
