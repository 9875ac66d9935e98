"""SFT keeps the laws of methods."""

from __future__ import annotations

from alignbench.testing import MethodSuite


class TestSFT(MethodSuite):
    method = "sft"
