"""The command line as a person meets it: arguments in, exit code and both streams out."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from typer.testing import CliRunner, Result

from alignbench.cli import app

GOOD = "from alignbench import Method\nclass RPO(Method):\n    '''Learns. Source: here.'''\n    api = 2\n" + (
    "    def align(self, run):\n        return run.start\n"
)


@pytest.fixture
def alignbench() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def rpo(install) -> None:
    install("alignbench-rpo", "0.3.1", modules={"rpo_plugin": GOOD}, methods={"rpo": "rpo_plugin:RPO"})
