"""RAIN, best-of-n and the distillation keep the laws of the contract."""

from __future__ import annotations

from alignbench.sandbox import TEMPLATES
from alignbench.testing import MethodSuite

QUESTION = {"ask": TEMPLATES["harmless"], "swapped": TEMPLATES["harmless_swapped"]}
"""As the sandbox's model was taught; the plugin's own question is longer than its context."""
SMALL = {"question": QUESTION, "pairs": 8, "searches": 8, "least_searches": 2, "candidates": 4}


class TestRAIN(MethodSuite):
    method = "rain"
    config = SMALL


class TestBestOfN(MethodSuite):
    method = "best-of-n"
    config = {"question": QUESTION, "pairs": 8, "n": 4}


class TestRainSFT(MethodSuite):
    method = "rain-sft"
    config = {**SMALL, "prompts": 24, "max_new_tokens": 12, "learning_rate": 1e-3}
