"""The plugins of one page: short, of public names only, and each passes its suite."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import alignbench
from alignbench import DecodingBase, Pair, PluginError, Sampling, Sequence, layout
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Recipe
from alignbench.testing import MethodSuite
from alignbench.testing.sessions import open_session
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import cell as cells

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "plugins"
FILES = sorted((FOLDER / "one_page").glob("[a-z]*.py"))
POINTS = tomllib.loads((FOLDER / "pyproject.toml").read_text())["project"]["entry-points"]
KINDS = {"methods": "method", "metrics": "metric", "judges": "judge", "data": "source"}
PLUGINS = [(KINDS[group.partition(".")[2]], name) for group, names in POINTS.items() for name in names]
WHOLE = {"distinct_words", "keywords", "csv"}
"""Whose whole suites run in the short version: one of each kind but methods, whose suite a new one passes."""
LAWS = (
    "the_entry_point_resolves_and_the_api_fits",
    "the_docstring_cites_its_source",
    "every_field_has_a_default_and_a_description",
    "a_short_run_answers_every_prompt",
    "a_saved_policy_equals_the_one_that_was_saved",
    "an_answer_depends_on_its_prompt_and_the_key_alone",
    "what_its_answers_cost_is_what_it_computed",
    "no_weight_changes_outside_of_a_training",
    "it_learned_from_training_rows_and_rows_it_declared",
    "everything_it_computes_is_counted_once",
    "its_first_step_is_the_same_whatever_the_micro_batch_is",
)
"""Laws of the other methods in the short version."""
TUNED = {"tuned": {"method": "sft", "learning_rate": 1e-3}}
OTHER = {"other": {"method": "orpo", "learning_rate": 1e-3}}
BUILD_ON = {
    "emulated": (TUNED, {"tuned": "tuned"}),
    "soup": ({**TUNED, **OTHER}, {"labels": ["tuned", "other"]}),
}
"""Labels that are made first, and the fields that name them: without any, these methods change nothing."""
SLOW = {"trl-bridge": LAWS[-1:]}
"""Laws that take longer than the few seconds of the short version."""
PUBLIC = {
    "alignbench",
    *(
        f"alignbench.{name}"
        for name in ("feedback", "integrations", "reference", "rewards", "rollouts", "spending")
    ),
}
LINES = 60


def test_there_are_twelve_and_each_has_a_file_that_the_pages_list():
    assert len(PLUGINS) == len(FILES) == 12
    named = re.findall(r"`(\w+\.py)`", (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8"))
    assert sorted(set(named)) == [file.name for file in FILES]
    listed = re.findall(r"^\| `(\w+\.py)`", (FOLDER / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == [file.name for file in FILES]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_plugin_of_one_page_is_one_page_of_public_names(file: Path):
    text = file.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LINES
    modules = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name == "alignbench"
    }
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert node.attr in alignbench.__all__
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("alignbench"):
            assert node.module in PUBLIC
            exported = importlib.import_module(node.module or "").__all__
            assert {alias.name for alias in node.names} <= set(exported)
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("alignbench.") for alias in node.names)


def load(name: str) -> Any:
    """Return the module of one page."""
    spec = importlib.util.spec_from_file_location(name, FOLDER / "one_page" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    class Suite(MethodSuite):
        method = "sft"

    return open_session(tmp_path_factory.mktemp("pages"), Suite.recipe())


def ids(session: Session, policy: Any) -> list[tuple[int, ...]]:
    """The greedy answers to eight prompts."""
    prompts, sampling = session.table.prompts("test", 8), Sampling(temperature=0.0, max_new_tokens=8)
    return [one.ids for one in policy.answer(prompts, sampling, 0)]


def test_emulated_fine_tuning_of_the_base_itself_is_the_tuned_policy(session: Session):
    """p_base (p_tuned / p_base) is p_tuned, and with no strength it is p_base."""
    tuned, base = session.base.add_adapter("tuned", seed=0), session.base.policy()
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in tuned.tensors().values():
            weight.add_(0.02 * torch.randn(weight.shape, generator=noise))

    def emulation(strength: float) -> Any:
        return load("emulated").Emulation([DecodingBase(one) for one in (base, tuned, base)], strength)

    assert ids(session, tuned) != ids(session, base)
    assert ids(session, emulation(1.0)) == ids(session, tuned)
    assert ids(session, emulation(0.0)) == ids(session, base)


def test_contrastive_decoding_takes_what_the_start_likes_most_in_comparison_with_the_base(session: Session):
    """As plain forwards of both models say, token by token, among tokens that are likely enough."""
    expert, base = session.base.add_adapter("expert", seed=0), session.base
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in expert.tensors().values():
            weight.add_(0.02 * torch.randn(weight.shape, generator=noise))

    def logps(policy: Any, path: tuple[int, ...]) -> torch.Tensor:
        with base.using(policy), torch.no_grad(), base.arithmetic():
            return base.model(input_ids=torch.tensor([path])).logits[0, -1].log_softmax(0)

    wanted, share = [], 0.1
    made = load("contrastive").Contrast(DecodingBase(expert), DecodingBase(base.policy()), share)
    for prompt in session.table.prompts("test", 8):
        said, path = (), prompt.prompt_ids
        while len(said) < 8 and not made.expert.ends & set(said[-1:]):
            good, bad = logps(expert, path + said), logps(None, path + said)
            gain = (good - bad).masked_fill(good < good.max() + math.log(share), -torch.inf)
            said = (*said, int(gain.argmax()))
        wanted.append(said)
    assert ids(session, made) == wanted
    assert wanted != ids(session, expert), "the comparison changes what is chosen"


def test_steering_adds_its_vector_to_the_layer_while_it_answers_and_never_else(session: Session):
    base, rows = DecodingBase(session.base.policy()), list(session.table.rows(Pair, seed=0))
    sequences = [one for row in rows for one in row.sequences()]
    states = base.response_states(sequences, 1)
    vector = (states[::2] - states[1::2]).mean(0)
    with base.shifted(1, vector):
        moved = base.response_states(sequences, 1)
    np.testing.assert_allclose(moved - states, np.tile(vector, (len(states), 1)), atol=1e-4)
    plain, steered = ids(session, base.policy), load("steering").Steered
    assert ids(session, steered(base, 1, 0 * vector)) == plain
    assert ids(session, steered(base, 1, 8 * vector)) != plain
    assert ids(session, base.policy) == plain


def test_what_cannot_be_steered_is_refused(session: Session):
    base = DecodingBase(session.base.policy())
    with pytest.raises(PluginError, match="there is no layer 4; the model has the layers 0 to 3"):
        base.response_states([Sequence((1,), (2,))], base.layers)
    with pytest.raises(PluginError, match="without tokens"):
        base.response_states([Sequence((1,), ())], 0)
    with pytest.raises(PluginError, match=r"of shape \[3\] cannot"), base.shifted(0, np.zeros(3, np.float32)):
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the examples are installed."""
    folder = tmp_path_factory.mktemp("site")
    install = [
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        str(folder),
    ]
    ran = subprocess.run(
        [sys.executable, "-m", "pip", *install, str(FOLDER)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.mark.parametrize("tried", [name for kind, name in PLUGINS if kind == "method" and name not in WHOLE])
def test_a_method_of_one_page_keeps_the_laws_that_take_seconds(
    tried: str,
    site: Path,
    session: Session,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    long: bool,
):
    if long:
        pytest.skip("its whole suite runs")

    class Suite(MethodSuite):
        method = tried
        labels, config = BUILD_ON.get(tried, ({}, {}))

    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setattr(session, "plan", resolve(Recipe.model_validate(Suite.recipe())))
    monkeypatch.setattr("alignbench.testing.suite.PROMPTS", 3)
    shutil.rmtree(session.run / layout.CELLS, ignore_errors=True)
    made = {}
    for label in Suite.labels:
        folder = layout.cell_folder(session.run, label, 0)
        folder.mkdir(parents=True)
        made[label] = cells.align(session, label, 0, folder)[1]
    suite, given = Suite(), {"session": session, "monkeypatch": monkeypatch}
    given["aligned"] = suite._align(session, "first")
    for law in LAWS:
        if law in SLOW.get(tried, ()):
            continue
        function = getattr(suite, f"test_{law}")
        given["tmp_path"] = tmp_path / law
        given["tmp_path"].mkdir()
        with suppress(pytest.skip.Exception):  # it trains nothing
            function(**{name: given[name] for name in inspect.signature(function).parameters})
    if tried == "soup":
        parts = [policy.tensors() for policy in made.values()]
        for name, weight in given["aligned"][1].tensors().items():
            torch.testing.assert_close(weight, (parts[0][name] + parts[1][name]) / 2)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), PLUGINS, ids=[name for _, name in PLUGINS])
def test_a_plugin_of_one_page_passes_its_suite(kind: str, name: str, site: Path, tmp_path: Path, long: bool):
    if not long and name not in WHOLE:
        pytest.skip("in the long version: make examples")
    options = []
    if name == "csv":
        rows = "".join(f"question {n} ?,good {n},bad {n},{n}\n" for n in range(20))
        (tmp_path / "pairs.csv").write_text("prompt,chosen,rejected,topic\n" + rows)
        options = ["--config", "{path: pairs.csv}"]
    if name in BUILD_ON:
        labels, config = BUILD_ON[name]
        options = ["--config", json.dumps(config), "--labels", json.dumps(labels)]
    command = [sys.executable, "-c", "from alignbench.cli import app; app()", "check-plugin", name]
    ran = subprocess.run(
        [*command, "--kind", kind, *options],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
