"""Plugins are found by their entry points; a broken or doubled one is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alignbench import plugins
from alignbench.errors import Exit, PluginError

GOOD = (
    "from alignbench import Method\nclass RPO(Method):\n    api = 2\n"
    "    def align(self, run):\n        return run.start\n"
)


def refusal(name: str, group: plugins.Group = "methods") -> str:
    with pytest.raises(PluginError) as caught:
        plugins.load(group, name)
    assert caught.value.exit_code == Exit.PLUGIN
    return str(caught.value)


def test_an_installed_method_is_found_by_name_with_its_distribution_and_version(install) -> None:
    install("alignbench-rpo", "0.3.1", modules={"rpo_plugin": GOOD}, methods={"rpo": "rpo_plugin:RPO"})
    found = plugins.find("methods", "rpo")
    assert (found.distribution, found.version, found.value) == ("alignbench-rpo", "0.3.1", "rpo_plugin:RPO")
    assert str(found) == "alignbench-rpo 0.3.1"
    assert plugins.load("methods", "rpo").__name__ == "RPO"


def test_listing_imports_nothing(install) -> None:
    install(
        "alignbench-rpo",
        modules={"never_imported": "raise SystemExit"},
        methods={"rpo": "never_imported:RPO"},
    )
    assert "rpo" in plugins.installed("methods")
    assert plugins.find("methods", "rpo")
    assert "never_imported" not in sys.modules


def test_naming_one_plugin_imports_no_other(install) -> None:
    install("one", modules={"plugin_one": GOOD}, methods={"one": "plugin_one:RPO"})
    install("two", modules={"plugin_two": GOOD}, methods={"two": "plugin_two:RPO"})
    plugins.load("methods", "two")
    assert "plugin_two" in sys.modules
    assert "plugin_one" not in sys.modules


def test_a_name_nobody_gives_is_told_with_the_nearest_and_with_all(install, monkeypatch) -> None:
    site = install(
        "alignbench-rpo", modules={"rpo_plugin": GOOD}, methods={"rpo": "rpo_plugin:RPO", "ppo": "x:Y"}
    )
    monkeypatch.setattr(sys, "path", [str(site)])
    assert refusal("rpoo") == (
        "no installed plugin provides the method 'rpoo'. Did you mean 'rpo'? Installed: ppo, rpo."
    )
    assert refusal("gold", "judges") == "no installed plugin provides the judge 'gold'. Installed: none."


def test_two_packages_with_one_name_are_both_named_once_it_is_used(install) -> None:
    install("alignbench-dup", "2.0", modules={"dup_plugin": GOOD}, methods={"rpo": "dup_plugin:RPO"})
    install("alignbench-rpo", "0.3.1", modules={"rpo_plugin": GOOD}, methods={"rpo": "rpo_plugin:RPO"})
    assert refusal("rpo") == (
        "2 installed packages provide the method 'rpo': alignbench-dup 2.0 and alignbench-rpo 0.3.1; "
        "uninstall one of them, or write alignbench-dup:rpo"
    )
    assert [str(one) for one in plugins.installed("methods")["rpo"].rivals] == ["alignbench-rpo 0.3.1"]


def test_distribution_and_name_tell_two_packages_apart(install) -> None:
    install("alignbench-dup", modules={"dup_plugin": GOOD}, methods={"rpo": "dup_plugin:RPO"})
    install("alignbench-rpo", modules={"rpo_plugin": GOOD}, methods={"rpo": "rpo_plugin:RPO"})
    assert plugins.load("methods", "alignbench-dup:rpo").__module__ == "dup_plugin"
    assert plugins.load("methods", "alignbench_RPO:rpo").__module__ == "rpo_plugin"
    assert refusal("alignbench-none:rpo") == (
        "alignbench-none provides no method 'rpo'; it comes from alignbench-dup 1.0, alignbench-rpo 1.0"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import package_that_does_not_exist", "No module named 'package_that_does_not_exist'"),
        ("def broken(:", "SyntaxError: invalid syntax (bad_plugin.py, line 1)"),
        ("raise SystemExit('go away')", "SystemExit: go away (bad_plugin.py:1)"),
        ("1 / 0", "ZeroDivisionError: division by zero (bad_plugin.py:1)"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines (bad_plugin.py:1)"),
        ("raise RuntimeError", "RuntimeError: RuntimeError (bad_plugin.py:1)"),
        ("", "module 'bad_plugin' has no attribute 'RPO'"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_its_reason_on_one_line(
    install, source, reason
) -> None:
    install("alignbench-broken", "0.3.1", modules={"bad_plugin": source}, methods={"rpo": "bad_plugin:RPO"})
    expected = f"alignbench-broken 0.3.1 could not be loaded for 'rpo': {reason}"
    assert refusal("rpo") == expected
    assert plugins.reason_broken(plugins.find("methods", "rpo")) == expected


def test_a_keyboard_interrupt_while_importing_is_not_a_broken_plugin(install) -> None:
    install("slow", modules={"slow_plugin": "raise KeyboardInterrupt"}, methods={"rpo": "slow_plugin:RPO"})
    with pytest.raises(KeyboardInterrupt):
        plugins.load("methods", "rpo")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("RPO = 3", "gives for 'rpo' no class, but bad_plugin:RPO is a int"),
        ("class RPO: pass", "something that is not a Method; let RPO inherit alignbench.Method"),
        (GOOD.replace("api = 2", "api = 1"), "RPO is written for version 1 of the plugin contract"),
        (GOOD.replace("    api = 2\n", ""), "RPO states no version of the plugin contract"),
        (GOOD + "class Heir(RPO):\n    pass\nRPO = Heir\n", "Heir states no version of the plugin contract"),
        (
            GOOD.replace("api = 2", "api = 1"),
            "a loss returns values per row or per token and the core reduces them",
        ),
        (GOOD.replace("api = 2", "api = 1"), "see docs/plugins.md, then write `api = 2` in the body of RPO"),
        (GOOD.replace("api = 2", "api = 3"), "RPO is written for version 3"),
        (GOOD.replace("api = 2", "api = '2'"), "RPO is written for version '2' of the plugin contract"),
        (GOOD.replace("api = 2", "api = 2.0"), "RPO is written for version 2.0 of the plugin contract"),
    ],
)
def test_a_class_that_does_not_keep_the_contract_is_refused_by_name(
    install, source: str, reason: str
) -> None:
    install("alignbench-odd", "9", modules={"bad_plugin": source}, methods={"rpo": "bad_plugin:RPO"})
    assert "alignbench-odd 9" in refusal("rpo")
    assert reason in refusal("rpo")


@pytest.mark.parametrize(
    "config", ["class Config(ab.Settings):\n        size: int = 1", "Config = dict", "Config = 3"]
)
def test_fields_without_those_that_every_one_of_the_group_has_are_refused(install, config: str) -> None:
    source = (
        f"import alignbench as ab\n\n\nclass Odd(ab.Reward):\n    api = 2\n    {config}\n\n    score = len\n"
    )
    install("alignbench-odd", "9", modules={"odd_plugin": source}, rewards={"odd": "odd_plugin:Odd"})
    assert refusal("odd", "rewards") == (
        "alignbench-odd 9: the fields of Odd are not a RewardConfig; "
        "write `class Config(RewardConfig)` in the body of Odd"
    )


def test_a_plugin_that_prints_while_it_is_imported_does_not_spoil_the_output(install, capsys) -> None:
    install("loud", modules={"loud_plugin": "print('hello')\n" + GOOD}, methods={"rpo": "loud_plugin:RPO"})
    plugins.load("methods", "rpo")
    assert capsys.readouterr() == ("", "hello\n")


def test_an_entry_point_whose_name_could_leave_its_folder_is_no_plugin(install) -> None:
    install("odd", modules={"odd_plugin": GOOD}, methods={"../rpo": "odd_plugin:RPO", "ok": "odd_plugin:RPO"})
    assert "ok" in plugins.installed("methods")
    assert not [name for name in plugins.installed("methods") if "/" in name]


def test_metadata_that_cannot_be_read_stop_nobody_and_are_told(install) -> None:
    install("alignbench-rpo", modules={"rpo_plugin": GOOD}, methods={"rpo": "rpo_plugin:RPO"})
    site = install("garbled", methods={})
    (points,) = site.glob("*.dist-info/entry_points.txt")
    points.write_text("[alignbench.methods]\nno equals sign\n", encoding="utf-8")
    sys.path.append("")  # what is cached is of another path
    try:
        assert "rpo" in plugins.installed("methods")
        assert "dpo" in plugins.installed("methods")
        (wrong,) = plugins.unusable()
    finally:
        sys.path.remove("")
    assert wrong.startswith("the entry points of garbled cannot be read (")


def test_a_name_that_cannot_be_one_is_told(install) -> None:
    install("alignbench-odd", modules={"odd_plugin": GOOD}, methods={"My Method": "odd_plugin:RPO"})
    assert "My Method" not in plugins.installed("methods")
    assert plugins.unusable() == (
        "alignbench-odd 1.0 gives the method 'My Method', which cannot be a name: "
        "write lower-case letters, digits, '.', '_' and '-'",
    )


@pytest.mark.parametrize(
    ("section", "hint"),
    [
        ("[alignbench.method]", "write [alignbench.methods]"),
        ("[alignbench.sources]", "write [alignbench.data]"),
        ("[alignbench.source]", "write [alignbench.data]"),
        ("[alignbench.methods", "write [alignbench.methods]"),
        ("[alignbench.observer]", "write [alignbench.hooks]"),
        (
            "[alignbench.xyz]",
            "its groups are methods, judges, metrics, data, filters, rewards, launchers, hooks",
        ),
    ],
)
def test_a_section_that_nobody_reads_is_told_with_the_right_one(install, section: str, hint: str) -> None:
    site = install("astray", methods={})
    (points,) = site.glob("*.dist-info/entry_points.txt")
    points.write_text(f"[console_scripts]\na = b:c\n\n{section}\nmine = mine:Mine\n", encoding="utf-8")
    assert f"astray has the entry points {section}, which are not read: {hint}" in plugins.unusable()


def test_what_a_distribution_requires_and_is_not_there_is_told(install) -> None:
    site = install("alignbench-needy", methods={})
    (file,) = site.glob("*.dist-info/METADATA")
    needs = (
        "torch>=99",
        "nobody-has-this>=1",
        "pydantic",
        "tomli; python_version < '3'",
        "rich; extra == 'x'",
    )
    file.write_text(file.read_text() + "".join(f"Requires-Dist: {one}\n" for one in needs))
    first, second = plugins.unmet("alignbench-needy")
    assert first.startswith("torch>=99 (there is ")
    assert second == "nobody-has-this>=1 (not installed)"


def test_the_digest_of_a_source_changes_with_the_source_and_with_nothing_else(install) -> None:
    site = install("mine", modules={"mine_plugin": GOOD}, methods={"rpo": "mine_plugin:RPO"})
    found = plugins.find("methods", "rpo")

    def digest() -> str:
        plugins.source_digest.cache_clear()
        return plugins.source_digest(found)

    first = digest()
    plugins.load("methods", "rpo")  # leaves byte code behind
    (site / "other.py").write_text("", encoding="utf-8")
    assert digest() == first
    (site / "mine_plugin.py").write_text(GOOD + "\n# changed", encoding="utf-8")
    assert digest() != first


def test_the_digest_of_a_package_holds_every_file_of_it(install) -> None:
    site = install("mine", methods={"rpo": "mine_package.deep:RPO"})
    package = site / "mine_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")  # a digest imports nothing
    (package / "inner" / "principles.txt").write_text("be kind", encoding="utf-8")
    found = plugins.find("methods", "rpo")
    digests = set()
    for text in ("be kind", "be kinder"):
        (package / "inner" / "principles.txt").write_text(text, encoding="utf-8")
        plugins.source_digest.cache_clear()
        digests.add(plugins.source_digest(found))
    assert len(digests) == 2
    assert "mine_package" not in sys.modules


def test_all_that_a_recipe_can_name_of_the_core_is_loaded_without_torch(root: Path) -> None:
    script = """
import sys
from alignbench import plugins
for group in ("judges", "metrics", "data", "filters"):
    for found in plugins.installed(group).values():
        if reason := plugins.reason_broken(found):
            print(reason)
print("torch" in sys.modules, "transformers" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=root)
    assert ran.stdout == "False False\n"


FAILING = """
import json
from alignbench import Sequence

def own(): return 1 / 0
def library(): return json.loads("{")
def core(): return Sequence((1,), None).__len__()
"""


@pytest.mark.parametrize(
    ("call", "line", "words"), [("own", 5, "ZeroDivisionError"), ("library", 6, "JSONDecodeError")]
)
def test_what_a_plugin_raises_is_told_as_the_plugins_with_its_file_and_line(
    install, call, line, words
) -> None:
    install("alignbench-sad", "2.0", modules={"sad_plugin": FAILING}, methods={"sad": "sad_plugin:own"})
    import sad_plugin  # pyright: ignore[reportMissingImports]

    with pytest.raises((ZeroDivisionError, ValueError)) as caught:
        getattr(sad_plugin, call)()
    caught.value.add_note("row train-0-7")
    refusal = str(plugins.blamed(caught.value))
    assert refusal.startswith(f"alignbench-sad 2.0 failed: {words}: ")
    assert refusal.endswith(
        f" (sad_plugin.py:{line}, row train-0-7); report it to the authors of alignbench-sad"
    )


def test_what_the_core_raises_is_no_plugins(install) -> None:
    install("alignbench-sad", modules={"sad_plugin": FAILING}, methods={"sad": "sad_plugin:own"})
    import sad_plugin  # pyright: ignore[reportMissingImports]

    with pytest.raises(TypeError) as caught:
        sad_plugin.core()
    assert plugins.blamed(caught.value) is None
    assert plugins.blamed(PluginError("it says itself what is wrong")) is None
