"""The laws that every kind of plugin keeps: it can be loaded, says what it is, and describes its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from alignbench import plugins
from alignbench.api.config import API
from alignbench.plugins import Group


class PluginSuite:
    """What the suites share."""

    group: ClassVar[Group]
    config: ClassVar[Mapping[str, Any]] = {}
    """Fields to set."""

    @classmethod
    def name(cls) -> str:
        """Return the plugin's name, which the subclass states."""
        raise NotImplementedError

    @classmethod
    def kind(cls) -> Any:
        """Return the plugin's class."""
        return plugins.load(cls.group, cls.name())

    @classmethod
    def fields(cls) -> Any:
        """Return the plugin's config."""
        return cls.kind().Config.model_validate(dict(cls.config))

    def test_the_entry_point_resolves_and_the_api_fits(self):
        assert vars(self.kind())["api"] == API

    def test_the_class_says_what_it_is(self):
        own = vars(self.kind()).get("__doc__")
        assert own, f"{self.kind().__name__} has no docstring: say in a sentence what it does"

    def test_every_field_has_a_description(self):
        for name, info in self.kind().Config.model_fields.items():
            assert info.description, f"{name} has no description: write a docstring under the field"
