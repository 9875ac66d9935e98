"""Both merges keep the laws of methods, and their policies have the merged weights."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from alignbench_merge import TIES, TaskArithmetic
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.numpy import load_file
from typer.testing import CliRunner

from alignbench import layout, results
from alignbench.cli import app
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import AdapterStart
from alignbench.testing import MethodSuite

Weights = dict[str, NDArray[np.float64]]
LABELS = {"one": {"method": "sft", "learning_rate": 1e-2}, "two": {"method": "dpo", "learning_rate": 1e-2}}


def dense(folder: Path) -> Weights:
    """What a saved adapter adds to each layer, from the files that peft reads."""
    config = json.loads((folder / "adapter_config.json").read_text())
    found = {
        name: one.astype(np.float64) for name, one in load_file(folder / "adapter_model.safetensors").items()
    }
    names = [name.removesuffix(".lora_A.weight") for name in found if name.endswith(".lora_A.weight")]
    scale = config["lora_alpha"] / config["r"]
    return {name: scale * found[f"{name}.lora_B.weight"] @ found[f"{name}.lora_A.weight"] for name in names}


def trimmed(changes: Weights, density: float) -> Weights:
    """The largest values of all layers together."""
    values = np.sort(np.abs(np.concatenate([one.ravel() for one in changes.values()])))
    least = values[-int(density * len(values))]
    return {name: np.where(np.abs(one) >= least, one, 0) for name, one in changes.items()}


def of_rank(whole: NDArray[np.float64], rank: int) -> NDArray[np.float64]:
    left, values, right = np.linalg.svd(whole, full_matrices=False)
    return (left[:, :rank] * values[:rank]) @ right[:rank]


def lost(whole: Weights, rank: int) -> float:
    """Share of the norm that a rank loses."""
    error = sum(np.square(one - of_rank(one, rank)).sum() for one in whole.values())
    return float(np.sqrt(error / sum(np.square(one).sum() for one in whole.values())))


class Merges(MethodSuite):
    labels = LABELS

    def saved(self, session: Any, label: str) -> Weights:
        return dense(layout.cell_folder(session.run, label, 0) / layout.POLICY)

    def from_one(self, session: Any, monkeypatch: pytest.MonkeyPatch, **config: Any) -> Any:
        """Merge with the label `one` as the start, and return the run."""
        start = AdapterStart(adapter=str(layout.cell_folder(session.run, "one", 0) / layout.POLICY))
        block = session.recipe.methods["tried"].model_copy(update={"start": start, "config": config})
        methods = {**session.recipe.methods, "tried": block}
        with monkeypatch.context() as patched:
            patched.setattr(session, "plan", resolve(session.recipe.model_copy(update={"methods": methods})))
            return self._align(session, f"from-one-{len(list((session.run / layout.CELLS).iterdir()))}")[0]

    def equals(self, session: Any, run: Any, label: str) -> None:
        """Hold the weights of a merge against those of a label."""
        merged = dense(run.folder / layout.POLICY)
        for name, expected in self.saved(session, label).items():
            assert np.linalg.norm(merged[name] - expected) < 1e-5 * np.linalg.norm(expected), name

    def check(self, aligned: Any, whole: Weights, tolerance: float) -> None:
        """Hold a policy's weights, and the departure, against the whole merged weights."""
        run = aligned[0]
        folder = run.folder / layout.POLICY
        found, rank = dense(folder), json.loads((folder / "adapter_config.json").read_text())["r"]
        for name, one in whole.items():
            expected = of_rank(one, rank)
            assert np.linalg.norm(found[name] - expected) < tolerance * np.linalg.norm(expected), name
        said = "\n".join(str(one) for one in run.ledger.departures)
        (share,) = re.findall(r"merged weights: the nearest of the adapter's rank, without (.+) % of", said)
        assert float(share) == pytest.approx(100 * lost(whole, rank), abs=0.1)
        assert float(share) > 1, "the rank does lose something here"
        assert "weights: made of those of one, two instead of trained" in said
        assert run.ledger.account.steps == run.ledger.cost.tokens == 0


class TestTaskArithmetic(Merges):
    method = "task-arithmetic"
    config = {"labels": ["one", "two"], "weights": [0.7, -0.4]}

    def test_the_policy_is_the_nearest_of_its_rank_to_the_weighted_sum(self, session, aligned):
        one, two = (self.saved(session, label) for label in ("one", "two"))
        self.check(aligned, {name: 0.7 * one[name] - 0.4 * two[name] for name in one}, 1e-5)

    @pytest.mark.parametrize(("weight", "label"), [(1.0, "two"), (0.0, "one")])
    def test_from_a_start_it_adds_what_a_label_changed_of_that(self, session, monkeypatch, weight, label):
        self.equals(session, self.from_one(session, monkeypatch, labels=["two"], weights=[weight]), label)


class TestTIES(Merges):
    method = "ties"
    config = {"labels": ["one", "two"], "density": 0.3, "scale": 1.5}

    def test_the_policy_is_the_nearest_of_its_rank_to_the_disjoint_mean(self, session, aligned):
        one, two = (trimmed(self.saved(session, label), 0.3) for label in ("one", "two"))
        whole = {}
        for name in one:
            both = np.stack([one[name], two[name]])
            agree = (np.sign(both) == np.sign(both.sum(0))) & (both != 0)
            whole[name] = 1.5 * (both * agree).sum(0) / np.maximum(agree.sum(0), 1)
        # In float32 another few of the values nearest to the cut are kept.
        self.check(aligned, whole, 1e-3)

    def test_from_a_start_and_of_one_untrimmed_label_it_is_that_label(self, session, monkeypatch):
        self.equals(session, self.from_one(session, monkeypatch, labels=["two"], density=1.0), "two")

    def test_of_no_labels_it_is_its_start_and_the_row_says_so(self, session, monkeypatch):
        run = self.from_one(session, monkeypatch)
        self.equals(session, run, "one")
        assert "it names no labels to merge" in str(run.ledger.warnings["labels"])
        assert run.ledger.departures == []


@pytest.mark.parametrize(
    ("kind", "fields", "words"),
    [
        (TaskArithmetic, {"labels": ["a", "b"], "weights": [1.0]}, "there are 1 weights for 2 labels"),
        (TIES, {"labels": ["a", "b"], "weights": [1.0, -1.0]}, "the weights of a mean are above 0"),
        (TIES, {"density": 0.0}, "greater than 0"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_check(kind, fields, words):
    with pytest.raises(ValidationError, match=words):
        kind.Config.model_validate(fields)


RECIPE = """
model: {id: sandbox}
data: {train: sandbox, limit: 32, max_length: 128}
training: {threads: 1, batch: 8}
budget: {steps: 2}
evaluation: {prompts: 8, sampling: {max_new_tokens: 8}, metrics: [kl]}
methods:
  merged: {method: ties, start: sft, labels: [more, dpo], density: 0.5}
  sft: {start: base, learning_rate: 1.0e-2}
  more: {method: sft, start: sft, learning_rate: 1.0e-2}
  dpo: {start: sft, learning_rate: 1.0e-2}
  after: {method: dpo, start: merged}
  undone: {method: task-arithmetic, start: sft, labels: [base]}
"""


@pytest.mark.slow
def test_in_a_recipe_the_labels_run_first_and_another_can_start_from_the_merge(tmp_path, monkeypatch):
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    ran = CliRunner().invoke(app, ["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run")])
    assert ran.exit_code == 0, ran.output
    found = results.read(tmp_path / "run")
    said = [str(one) for one in found.label("merged").departures]
    assert "weights: made of those of more, dpo instead of trained" in said
    undone = [str(one) for one in found.label("undone").departures]
    assert "weights: made of those of base instead of trained" in undone, (
        "no method could have been named for it"
    )
    assert not any("without a training" in one for one in undone)
    costs = {label: found.label(label).cost for label in ("sft", "more", "dpo", "merged", "after")}
    assert costs["merged"].own.tokens == 0
    assert costs["merged"].chain.tokens == sum(costs[label].own.tokens for label in ("sft", "more", "dpo"))
    assert costs["after"].own.tokens > 0
