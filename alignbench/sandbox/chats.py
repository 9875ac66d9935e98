"""Formats of a sandbox chat: messages, the model's input text, a judge's one-line question."""

from __future__ import annotations

from dataclasses import dataclass

from . import words as w

Message = dict[str, str]


def messages(contents: list[str]) -> list[Message]:
    """Return chat messages of alternating contents, the user first."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(contents)]


def question(prompt: list[Message]) -> str:
    """Return a prompt as the {question} of judging templates: all contents, joined by a space."""
    return " ".join(message["content"] for message in prompt)


def render(chat: list[Message], generate: bool = False) -> str:
    """Return the chat exactly as the tokenizer's chat template renders it. Prompts use `generate`."""
    parts = [w.BOS]
    for message in chat:
        if message["role"] == "assistant":
            parts += [w.BOT, message["content"], w.END]
        else:
            parts += [w.USER, message["content"]]
    return " ".join(parts + [w.BOT] * generate)


@dataclass(frozen=True)
class Document:
    """One document: its text with special tokens, and whether its last word before <end> is a judgment."""

    text: str
    judgment: bool = False
