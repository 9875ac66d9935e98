"""The launcher that comes with alignbench keeps the laws of launchers."""

from __future__ import annotations

from alignbench.testing import LauncherSuite


class TestLocal(LauncherSuite):
    launcher = "local"
