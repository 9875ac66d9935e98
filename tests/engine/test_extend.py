"""More seeds for a finished run: what is sealed is taken, and nothing of another recipe is."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench import layout, results, store
from alignbench.engine.cells import cells_of
from alignbench.engine.extend import extend
from alignbench.engine.run import run
from alignbench.errors import Exit, RecipeError
from alignbench.recipe.load import load
from alignbench.recipe.resolve import resolve

RECIPE = """
model: {id: sandbox, quantization: none}
data: {train: sandbox, limit: 16, max_length: 128}
budget: {epochs: 1}
methods: {sft: {}}
evaluation: {prompts: 4, sampling: {temperature: 1.0, max_new_tokens: 4}, metrics: [length]}
seeds: [100]
"""


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with one seed, with its recipe next to it."""
    folder = tmp_path_factory.mktemp("extend")
    (folder / "recipe.yaml").write_text(RECIPE)
    assert run(load(folder / "recipe.yaml"), out=folder / "short") is Exit.DONE
    return folder / "short"


def test_a_run_with_more_seeds_takes_the_sealed_cells_of_the_one_before(short: Path):
    loaded, out = load(short.parent / "recipe.yaml", ["seeds=[100, 101]"]), short.parent / "long"
    assert extend(short, out, loaded, cells_of(resolve(loaded.recipe))) == 2
    sealed = [
        file
        for name in (layout.CELLS, layout.MEASUREMENTS)
        for file in out.glob(f"{name}/*/seed-100/{store.COMMIT}")
    ]
    before = {file: file.stat().st_mtime_ns for file in sealed}
    assert len(before) == 4
    assert run(loaded, out=out, allow_env_change=True, registry="abc") is Exit.DONE
    assert {file: file.stat().st_mtime_ns for file in before} == before, "what is sealed did not run again"
    one, two = results.read(short), results.read(out)
    assert (two.label("sft").seeds, two.registry) == ((100, 101), "abc")  # pyright: ignore[reportOptionalMemberAccess]
    shared = [cell for cell in two.cells if cell.seed == 100]
    assert [cell.metrics for cell in shared] == [cell.metrics for cell in one.cells]


@pytest.mark.parametrize(
    "change", ["data.limit=8", "evaluation.prompts=5", "methods.sft={learning_rate: 1.0e-3}"]
)
def test_a_run_of_another_recipe_takes_nothing(short: Path, tmp_path: Path, change: str):
    loaded = load(short.parent / "recipe.yaml", ["seeds=[100, 101]", change])
    with pytest.raises(RecipeError, match="another recipe"):
        extend(short, tmp_path / "out", loaded, cells_of(resolve(loaded.recipe)))
    assert not (tmp_path / "out").exists()
