"""The template keeps the laws of the contract."""

from alignbench.testing import MethodSuite


class TestFewShot(MethodSuite):
    method = "few-shot"


class TestFrozen(MethodSuite):
    method = "frozen"
