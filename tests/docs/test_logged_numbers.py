"""The page of logged numbers names every number that alignbench and its plugins log, and no other."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [
    file
    for folder in ("alignbench/training", "alignbench/worker/run", "plugins")
    for file in sorted((ROOT / folder).rglob("*.py"))
    if "tests" not in file.parts
]
HOLD = ("numbers", "rewards", "pace")
"""Variables that hold numbers to log."""
RECORDED = "self_evaluation_"
"""Begins the quality of a judge, which `run.record.judge` takes: it is in `cell.json`, not in the log."""


def spelt(node: ast.AST | None) -> Iterator[str]:
    """Yield the names that an expression may be, with `*` for the filled-in parts of an f-string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(one.value if isinstance(one, ast.Constant) else "*" for one in node.values)  # pyright: ignore[reportArgumentType]
    elif isinstance(node, ast.IfExp):
        yield from (*spelt(node.body), *spelt(node.orelse))


def keys(node: ast.AST) -> Iterator[str]:
    """Yield the keys of every mapping in an expression."""
    for one in ast.walk(node):
        for key in (
            one.keys if isinstance(one, ast.Dict) else [one.key] if isinstance(one, ast.DictComp) else ()
        ):
            yield from spelt(key)


def logged(source: ast.Module) -> set[str]:
    """Return the names of the numbers that a file logs, or returns with a loss to be logged."""
    found: set[str] = set()
    for node in ast.walk(source):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and target.id in HOLD:
                    found.update(keys(node.value))
                if isinstance(target, ast.Subscript) and ast.unparse(target.value) in HOLD:
                    found.update(spelt(target.slice))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".log", ".pending.append")):
            found.update(keys(node))
            found.update(keyword.arg for keyword in node.keywords if keyword.arg)
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple) and len(node.value.elts) == 2:
            found.update(keys(node.value.elts[1]))
        elif isinstance(node, ast.FunctionDef) and node.name == "norms":
            found.update(keys(node))
    return {name for name in found if not name.startswith(RECORDED)}


def same(a: str, b: str) -> bool:
    """Whether two names may be one, where `*` stands for any part."""
    return any(re.fullmatch(re.escape(one).replace(r"\*", ".+"), other) for one, other in ((a, b), (b, a)))


@pytest.fixture(scope="module")
def of_files() -> dict[str, Path]:
    return {name: file for file in FILES for name in logged(ast.parse(file.read_text("utf-8")))}


@pytest.fixture(scope="module")
def of_page() -> set[str]:
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/logged-numbers.md").read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"<\w+>", "*", name) for row in rows for name in re.findall(r"`(.+?)`", row)}


def test_every_logged_number_is_on_the_page(of_files: dict[str, Path], of_page: set[str]):
    assert len(of_files) > 40
    missing = {name: file for name, file in of_files.items() if not any(same(name, one) for one in of_page)}
    assert missing == {}


def test_every_number_of_the_page_is_logged(of_files: dict[str, Path], of_page: set[str]):
    assert sorted(one for one in of_page if not any(same(name, one) for name in of_files)) == []


@pytest.mark.parametrize(
    "line",
    [
        "run.log(step, new=1.0)",
        "run.log(step, **{'new': 1.0})",
        "numbers = {'new': 1.0}",
        "numbers |= {'new': 1.0}",
        "numbers['new' if hot else 'new'] = 1.0",
        "def loss(scores, rows): return nll, {'new': 1.0}",
    ],
)
def test_a_number_that_the_page_lacks_would_be_found(line: str):
    assert logged(ast.parse(line)) == {"new"}
