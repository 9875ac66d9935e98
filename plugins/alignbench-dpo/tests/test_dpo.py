from __future__ import annotations

from alignbench.testing import MethodSuite


class TestDPO(MethodSuite):
    method = "dpo"
