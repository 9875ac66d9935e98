"""The author's kit: `MethodSuite` holds the laws of the contract; a plugin's test is an empty subclass.

from alignbench.testing import MethodSuite

class TestMine(MethodSuite):
    method = "mine"
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["MethodSuite"]

if TYPE_CHECKING:
    from alignbench.testing.suite import MethodSuite as MethodSuite


def __getattr__(name: str) -> Any:
    if name == "MethodSuite":
        from alignbench.testing.suite import MethodSuite

        return MethodSuite
    raise AttributeError(name)
