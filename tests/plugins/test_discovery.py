from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alignbench import plugins
from alignbench.errors import Exit, PluginError

GOOD = (
    "from alignbench import Method\nclass KTO(Method):\n    api = 2\n"
    "    def align(self, run):\n        return run.start\n"
)


def said(name: str, group: plugins.Group = "methods") -> str:
    with pytest.raises(PluginError) as caught:
        plugins.load(group, name)
    assert caught.value.exit_code == Exit.PLUGIN
    return str(caught.value)


def test_an_installed_method_is_found_by_name_with_its_distribution_and_version(install) -> None:
    install("alignbench-kto", "0.3.1", modules={"kto_plugin": GOOD}, methods={"kto": "kto_plugin:KTO"})
    found = plugins.find("methods", "kto")
    assert (found.distribution, found.version, found.value) == ("alignbench-kto", "0.3.1", "kto_plugin:KTO")
    assert str(found) == "alignbench-kto 0.3.1"
    assert plugins.load("methods", "kto").__name__ == "KTO"


def test_listing_imports_nothing(install) -> None:
    install(
        "alignbench-kto",
        modules={"never_imported": "raise SystemExit"},
        methods={"kto": "never_imported:KTO"},
    )
    assert "kto" in plugins.installed("methods")
    assert plugins.find("methods", "kto")
    assert "never_imported" not in sys.modules


def test_naming_one_plugin_imports_no_other(install) -> None:
    install("one", modules={"plugin_one": GOOD}, methods={"one": "plugin_one:KTO"})
    install("two", modules={"plugin_two": GOOD}, methods={"two": "plugin_two:KTO"})
    plugins.load("methods", "two")
    assert "plugin_two" in sys.modules
    assert "plugin_one" not in sys.modules


def test_a_name_nobody_gives_is_told_with_the_nearest_and_with_all(install, monkeypatch) -> None:
    site = install(
        "alignbench-kto", modules={"kto_plugin": GOOD}, methods={"kto": "kto_plugin:KTO", "ppo": "x:Y"}
    )
    monkeypatch.setattr(sys, "path", [str(site)])
    assert said("kot") == (
        "no installed plugin provides the method 'kot'. Did you mean 'kto'? Installed: kto, ppo."
    )
    assert said("gold", "judges") == "no installed plugin provides the judge 'gold'. Installed: none."


def test_two_packages_with_one_name_are_both_named_once_it_is_used(install) -> None:
    install("alignbench-dup", "2.0", modules={"dup_plugin": GOOD}, methods={"kto": "dup_plugin:KTO"})
    install("alignbench-kto", "0.3.1", modules={"kto_plugin": GOOD}, methods={"kto": "kto_plugin:KTO"})
    assert said("kto") == (
        "2 installed packages provide the method 'kto': alignbench-dup 2.0 and alignbench-kto 0.3.1; "
        "uninstall one of them, or write alignbench-dup:kto"
    )
    assert [str(one) for one in plugins.installed("methods")["kto"].rivals] == ["alignbench-kto 0.3.1"]


def test_distribution_and_name_tell_two_packages_apart(install) -> None:
    install("alignbench-dup", modules={"dup_plugin": GOOD}, methods={"kto": "dup_plugin:KTO"})
    install("alignbench-kto", modules={"kto_plugin": GOOD}, methods={"kto": "kto_plugin:KTO"})
    assert plugins.load("methods", "alignbench-dup:kto").__module__ == "dup_plugin"
    assert plugins.load("methods", "alignbench_KTO:kto").__module__ == "kto_plugin"
    assert said("alignbench-none:kto") == (
        "alignbench-none provides no method 'kto'; it comes from alignbench-dup 1.0, alignbench-kto 1.0"
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
        ("", "module 'bad_plugin' has no attribute 'KTO'"),
    ],
)
def test_a_plugin_that_cannot_be_imported_is_named_with_its_reason_on_one_line(
    install, source, reason
) -> None:
    install("alignbench-broken", "0.3.1", modules={"bad_plugin": source}, methods={"kto": "bad_plugin:KTO"})
    expected = f"alignbench-broken 0.3.1 could not be loaded for 'kto': {reason}"
    assert said("kto") == expected
    assert plugins.reason_broken(plugins.find("methods", "kto")) == expected


def test_a_keyboard_interrupt_while_importing_is_not_a_broken_plugin(install) -> None:
    install("slow", modules={"slow_plugin": "raise KeyboardInterrupt"}, methods={"kto": "slow_plugin:KTO"})
    with pytest.raises(KeyboardInterrupt):
        plugins.load("methods", "kto")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("KTO = 3", "gives for 'kto' no class, but bad_plugin:KTO is a int"),
        ("class KTO: pass", "what is no Method; let KTO inherit alignbench.Method"),
        (GOOD.replace("api = 2", "api = 1"), "KTO is written for version 1 of the plugin contract"),
        (GOOD.replace("    api = 2\n", ""), "KTO states no version of the plugin contract"),
        (GOOD + "class Heir(KTO):\n    pass\nKTO = Heir\n", "Heir states no version of the plugin contract"),
        (
            GOOD.replace("api = 2", "api = 1"),
            "a loss returns values per row or per token and the core reduces them",
        ),
        (GOOD.replace("api = 2", "api = 1"), "see docs/plugins.md, then write `api = 2` in the body of KTO"),
        (GOOD.replace("api = 2", "api = 3"), "KTO is written for version 3"),
    ],
)
def test_a_class_that_does_not_keep_the_contract_is_refused_by_name(
    install, source: str, reason: str
) -> None:
    install("alignbench-odd", "9", modules={"bad_plugin": source}, methods={"kto": "bad_plugin:KTO"})
    assert "alignbench-odd 9" in said("kto")
    assert reason in said("kto")


def test_a_plugin_that_prints_while_it_is_imported_does_not_spoil_the_output(install, capsys) -> None:
    install("loud", modules={"loud_plugin": "print('hello')\n" + GOOD}, methods={"kto": "loud_plugin:KTO"})
    plugins.load("methods", "kto")
    assert capsys.readouterr() == ("", "hello\n")


def test_an_entry_point_whose_name_could_leave_its_folder_is_no_plugin(install) -> None:
    install("odd", modules={"odd_plugin": GOOD}, methods={"../kto": "odd_plugin:KTO", "ok": "odd_plugin:KTO"})
    assert "ok" in plugins.installed("methods")
    assert not [name for name in plugins.installed("methods") if "/" in name]


def test_the_digest_of_a_source_changes_with_the_source_and_with_nothing_else(install) -> None:
    site = install("mine", modules={"mine_plugin": GOOD}, methods={"kto": "mine_plugin:KTO"})
    found = plugins.find("methods", "kto")

    def digest() -> str:
        plugins.source_digest.cache_clear()
        return plugins.source_digest(found)

    first = digest()
    plugins.load("methods", "kto")  # leaves byte code behind
    (site / "other.py").write_text("", encoding="utf-8")
    assert digest() == first
    (site / "mine_plugin.py").write_text(GOOD + "\n# changed", encoding="utf-8")
    assert digest() != first


def test_the_digest_of_a_package_holds_every_file_of_it(install) -> None:
    site = install("mine", methods={"kto": "mine_package.deep:KTO"})
    package = site / "mine_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError", encoding="utf-8")  # a digest imports nothing
    (package / "inner" / "principles.txt").write_text("be kind", encoding="utf-8")
    found = plugins.find("methods", "kto")
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
