"""How the sandbox writes a chat down: as messages, as the text the model reads, as a judge's one-line
question."""

from __future__ import annotations

from dataclasses import dataclass

from . import words as w

Message = dict[str, str]


def messages(contents: list[str]) -> list[Message]:
    """Chat messages of contents in turn, the user first."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def question(prompt: list[Message]) -> str:
    """A prompt as the one line that judging templates take as {question}: all contents, joined by a space."""
    return " ".join(message["content"] for message in prompt)


def render(chat: list[Message], generate: bool = False) -> str:
    """The chat exactly as the tokenizer's chat template renders it. Chats given as prompts use `generate`."""
    parts = [w.BOS]
    for message in chat:
        if message["role"] == "assistant":
            parts += [w.BOT, message["content"], w.END]
        else:
            parts += [w.USER, message["content"]]
    return " ".join(parts + [w.BOT] * generate)


@dataclass(frozen=True)
class Document:
    """One document: its text with special tokens, and whether its last word before <end> is a verdict."""

    text: str
    verdict: bool = False
