"""What all tests share: an offline environment, the folder of real inputs, and fake installed packages."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


LONGEST = (
    "tests/faults",
    "tests/engine",
    "plugins/alignbench-ray",
    "tests/testing",
    "tests/docs",
    "tests/cli",
    "tests/label",
)
"""Folders whose files take minutes: first, so that no worker begins one when the others have nothing left."""


OF_A_VARIANT = (
    "counted_once",
    "keeps_a_budget_that_counts_everything[tokens]",
    "micro_batch",
    "saved_policy",
    "short_run",
)
"""Laws that the short version tries on a method's second suite, with other fields, unless it names them itself, and
on one that says `variant = True`: a method whose training is another's."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_place)
    if os.environ.get("TESTS") != "long":
        _skip_most_laws_of_variants(items)
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if gpu:
        from alignbench.launchers.machine import has_cuda

        if not has_cuda():
            for item in gpu:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and this machine has none"))


def _skip_most_laws_of_variants(items: list[pytest.Item]) -> None:
    first: dict[tuple[Path, str], str] = {}
    for item in items:
        suite = getattr(item, "cls", None)
        method, own = getattr(suite, "method", None), getattr(suite, "__dict__", {})
        if not isinstance(method, str) or not hasattr(suite, "aligned") or hasattr(suite, "short"):
            continue
        variant = first.setdefault((item.path, method), suite.__name__) != suite.__name__
        variant |= getattr(suite, "variant", False)
        law = item.name.partition("[")[0] not in own
        if variant and law and not any(one in item.name for one in OF_A_VARIANT):
            item.add_marker(pytest.mark.skip(reason="in the long version: make examples"))


def _place(item: pytest.Item) -> int:
    path = item.path.relative_to(ROOT).as_posix() if item.path.is_relative_to(ROOT) else ""
    return next((at for at, folder in enumerate(LONGEST) if path.startswith(folder)), len(LONGEST))


@pytest.fixture(scope="session")
def long() -> bool:
    """Whether tests that take long run in whole, and not a sample of them: `make faults`, `make examples`."""
    return os.environ.get("TESTS") == "long"


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real models and data in a folder next to the checkout; not everybody has them."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the folder {folder.name} with real models and data next to the checkout")
    return folder


@pytest.fixture(scope="session")
def script(root: Path) -> Callable[[str], ModuleType]:
    """Loads a script of `benchmarks/`, by its path there: a new module at each call."""

    def load(name: str) -> ModuleType:
        path = root / "benchmarks" / name
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a package on the path as pip would: its modules, and the metadata that name its entry points."""
    before = set(sys.modules)

    def install(
        distribution: str,
        version: str = "1.0",
        *,
        modules: Mapping[str, str] | None = None,
        **groups: Mapping[str, str],
    ) -> Path:
        site = tmp_path / "site" / distribution
        metadata = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
        metadata.mkdir(parents=True)
        head = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (metadata / "METADATA").write_text(head, encoding="utf-8")
        points = []
        for group, names in groups.items():
            points += [f"[alignbench.{group}]", *(f"{name} = {value}" for name, value in names.items())]
        (metadata / "entry_points.txt").write_text("\n".join(points) + "\n", encoding="utf-8")
        for name, source in (modules or {}).items():
            (site / f"{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(str(site))
        importlib.invalidate_caches()
        return site

    yield install  # pyright: ignore[reportReturnType]
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and str(tmp_path) in str(sys.modules[name].__file__):
            del sys.modules[name]
