"""The sandbox: a synthetic task in simple English with a hidden gold reward, and a small base model for it.

A whole comparison of alignment methods runs on it in minutes, and an incorrect method is visible. Importing it
loads no torch: the model is in the folder MODEL and is loaded like any other. See docs/sandbox.md.
"""

from __future__ import annotations

import json
from pathlib import Path

from .annotators import ANNOTATORS, annotate
from .chats import question, render
from .documents import pretraining, stereotypes
from .judgments import PRINCIPLES, TEMPLATES, judging
from .prompts import FAMILIES, tones
from .scoring import Gold, gold
from .skills import CAPABILITIES, capability
from .table import rows

_HERE = Path(__file__).parent
MODEL: Path = _HERE / "model"
"""Folder of the base: weights, configuration, tokenizer with its chat template."""
CHECKPOINTS: dict[str, Path] = {
    "early": _HERE / "checkpoints" / "early",
    "middle": _HERE / "checkpoints" / "middle",
}
"""Two earlier checkpoints of the same pretraining, with a tokenizer each: weaker judges."""
RECORD: Path = _HERE / "record.json"
"""The record of the build: seed, versions, sha256 of each file and of the generated data, and the fingerprint."""
FINGERPRINT: str = json.loads(RECORD.read_text())["fingerprint"] if RECORD.exists() else ""
"""One sha256 over weights, tokenizer and generated data: results are comparable only if it is the same."""

__all__ = [
    "ANNOTATORS", "CAPABILITIES", "CHECKPOINTS", "FAMILIES", "FINGERPRINT", "MODEL", "PRINCIPLES", "RECORD",
    "TEMPLATES", "Gold", "annotate", "capability", "gold", "judging", "pretraining", "question", "render",
    "rows", "stereotypes", "tones",
]  # fmt: skip
