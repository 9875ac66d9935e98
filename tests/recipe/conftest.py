"""Two small methods, installed as packages of their own, and a recipe that names them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from alignbench.errors import AlignbenchError
from alignbench.recipe.load import load
from alignbench.recipe.schema import Loaded

LEARNER = '''
from pydantic import Field, model_validator

from alignbench import AdapterLabel, Label, Method, MethodConfig, Pair, Text, UnpairedPreference


class Learner(Method):
    """Learns. Source: this test."""

    api = 2

    class Config(MethodConfig):
        rate: float = Field(0.1, gt=0)
        """How fast it learns."""
        teacher: Label | None = None
        parents: list[Label] = []
        kind: str = "plain"

        @model_validator(mode="after")
        def _agree(self):
            if self.kind == "odd" and self.rate == 1:
                raise ValueError("odd learners need a rate below 1; lower it")
            return self

    def reads(self):
        return (*self.consumes, Text) if self.config.kind == "bookish" else self.consumes

    def align(self, run):
        return run.start


class Searcher(Learner):
    """Searches. Source: this test."""

    api = 2

    def restore(self, folder, run):
        return run.start


class Digger(Searcher):
    """Searches a model alone. Source: this test."""

    api = 2
    on_decoders = False


class Merger(Learner):
    """Adds adapters. Source: this test."""

    api = 2

    class Config(Learner.Config):
        labels: list[AdapterLabel] = []
        asked: Label | None = None


class Reader(Learner):
    """Reads plain text. Source: this test."""

    api = 2
    consumes = (Text,)
'''

RECIPE = """\
model: {id: sandbox}
data: {train: sandbox}
methods:
  learner: {rate: 0.5}
"""

Recipe = Callable[..., Path]


@pytest.fixture(autouse=True)
def learners(install) -> None:
    points = {
        "learner": "learner_plugin:Learner",
        "reader": "learner_plugin:Reader",
        "searcher": "learner_plugin:Searcher",
        "digger": "learner_plugin:Digger",
        "merger": "learner_plugin:Merger",
    }
    install("learner-plugin", "2.1", modules={"learner_plugin": LEARNER}, methods=points)


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Write a recipe to a file."""

    def write(text: str = RECIPE) -> Path:
        path = tmp_path / "r.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def loaded(recipe) -> Callable[..., Loaded]:
    return lambda text=RECIPE, *overrides: load(recipe(text), overrides)


@pytest.fixture
def problems(recipe, tmp_path: Path) -> Callable[..., list[str]]:
    """Say what is wrong with a recipe, without the folder it lies in."""

    def problems(text: str, *overrides: str) -> list[str]:
        with pytest.raises(AlignbenchError) as caught:
            load(recipe(text), overrides)
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return problems
