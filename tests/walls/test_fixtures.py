"""No test changes what another one runs on: a fixture that outlives its file patches and switches nothing."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = [
    file
    for folder in ("tests", "plugins", "alignbench/testing")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
LONG = ("session", "package")
"""Scopes that do not end with the file: with these a patch holds for whatever the process runs next."""
CHANGES = (
    "MonkeyPatch",
    "setattr",
    "setenv",
    "set_num_threads",
    "set_default_dtype",
    "os.environ[",
    "os.chdir",
)


def leaks(text: str) -> Iterator[str]:
    """Yield the fixtures of a file that change the process and outlive the file."""
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef):
            continue
        how = " ".join(map(ast.unparse, function.decorator_list))
        if "fixture" in how and any(f"scope='{scope}'" in how for scope in LONG):
            body = "\n".join(map(ast.unparse, function.body))
            yield from (f"{function.name}: {change}" for change in CHANGES if change in body)


def test_no_fixture_that_outlives_its_file_changes_the_process():
    found = [f"{file.relative_to(ROOT)}: {leak}" for file in FILES for leak in leaks(file.read_text("utf-8"))]
    assert not found


def test_a_fixture_that_patches_for_the_whole_session_is_seen():
    text = """
@pytest.fixture(scope="{}")
def base():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "load_base", lambda: base)
        yield base
"""
    assert list(leaks(text.format("session"))) == ["base: MonkeyPatch", "base: setattr"]
    assert not list(leaks(text.format("module")))
