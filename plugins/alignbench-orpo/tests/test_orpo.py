"""ORPO keeps the laws of methods."""

from __future__ import annotations

from alignbench.testing import MethodSuite


class TestORPO(MethodSuite):
    method = "orpo"
