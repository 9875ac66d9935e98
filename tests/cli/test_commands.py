"""The commands as a person types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alignbench import __version__
from alignbench.errors import Exit

RECIPE = """\
model: {id: sandbox}
data: {train: sandbox}
methods:
  rpo: {start: base}
  rpo-twice: {method: rpo, start: rpo, budget: {steps: 3}, training: {batch: 4}}
seeds: [0, 7]
"""
COMMANDS = ("run", "check", "plan", "compare", "report", "methods", "doctor")


@pytest.fixture
def recipe(tmp_path: Path, rpo: None) -> Path:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE, encoding="utf-8")
    return path


def test_help_names_every_command_and_every_command_has_help(alignbench) -> None:
    output = alignbench("--help").stdout
    for command in COMMANDS:
        assert command in output
        assert alignbench(command, "--help").exit_code == 0


def test_the_version_is_the_package_s(alignbench) -> None:
    assert alignbench("--version").stdout == f"alignbench {__version__}\n"


def test_check_says_what_would_run(alignbench, recipe: Path) -> None:
    done = alignbench("check", recipe)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == f"{recipe} is good: 6 cells (base, rpo, rpo-twice; seeds 0, 7)\n"


def test_check_for_a_program_is_the_whole_recipe_with_defaults(alignbench, recipe: Path) -> None:
    record = json.loads(alignbench("check", recipe, "--json", "--set", "seeds=[3]").stdout)
    assert record["seeds"] == [3]
    assert record["training"]["batch"] == 16


def test_check_reads_every_row_where_it_is_asked_to_and_names_file_and_line(
    alignbench, recipe: Path, tmp_path: Path
) -> None:
    pair = '{"prompt": "a?", "chosen": "mix flour .", "rejected": "i do not know ."}\n'
    same = '{"prompt": "d?", "chosen": "mix flour .", "rejected": "mix flour ."}\n'
    recipe.write_text(
        RECIPE.replace("train: sandbox", "train: ./rows.jsonl, pretraining: ./texts.jsonl"), encoding="utf-8"
    )
    rows, texts = tmp_path / "rows.jsonl", tmp_path / "texts.jsonl"
    others = "".join(pair.replace("a?", f"a{n}?") for n in range(97))
    rows.write_text(pair + same + pair + others, encoding="utf-8")
    texts.write_text('{"text": "plain"}\n', encoding="utf-8")
    done = alignbench("check", recipe, "--data")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1] == (
        "100 Pair rows were read; unusable: chosen equals rejected (1); duplicates: 1"
    )
    rows.write_text(pair + same + '{"prompt": "e?", "chosen": "b"}\n', encoding="utf-8")
    texts.write_text('{"text": "plain"}\n{"text": 3}\n', encoding="utf-8")
    assert alignbench("check", recipe).exit_code == 0  # its first row is good
    done = alignbench("check", recipe, "--data")
    assert (done.exit_code, done.stdout) == (Exit.DATA, "")
    assert done.stderr.splitlines() == [
        "error: ./rows.jsonl:3: rejected: is missing; add the field `rejected`",
        "error: ./texts.jsonl:2:2: text: a number, not a text; give a text or drop the row",
    ]


def test_problems_are_lines_on_stderr_and_nothing_on_stdout(alignbench, recipe: Path) -> None:
    recipe.write_text(
        RECIPE.replace("seeds", "sedes").replace("start: rpo,", "start: rop,"), encoding="utf-8"
    )
    done = alignbench("check", recipe)
    assert (done.exit_code, done.stdout) == (Exit.USAGE, "")
    assert done.stderr.splitlines() == [
        f"error: {recipe}:5:35: methods.rpo-twice.start: there is no label 'rop'; did you mean 'rpo'?",
        f"error: {recipe}:6:1: sedes: unknown; did you mean 'seeds'?",
    ]


def test_problems_for_a_program_are_one_json_object(alignbench, recipe: Path) -> None:
    done = alignbench("plan", recipe, "--json", "--set", "seeds=[x]")
    assert done.exit_code == Exit.USAGE
    record = json.loads(done.stdout)
    assert record["error"] == "RecipeError"
    assert record["exit_code"] == 2
    assert record["problems"][0]["field"] == "seeds[0]"
    assert record["problems"][0]["file"] == "--set seeds=[x]"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: !!python/object:os.system {}", Exit.SECURITY),
        ("model: {id: sandbox}\ndata: {train: sandbox}\nmethods: {rop: {}}", Exit.PLUGIN),
        ("model: [", Exit.USAGE),
    ],
)
def test_every_kind_of_error_ends_with_its_exit_code(alignbench, recipe: Path, text: str, code: Exit) -> None:
    recipe.write_text(text, encoding="utf-8")
    done = alignbench("check", recipe)
    assert done.exit_code == code
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_what_data_smuggles_into_an_error_cannot_steer_the_terminal(alignbench, recipe: Path) -> None:
    recipe.write_text('"\\e]52;c;aGk=\\a\\e[31m": 1', encoding="utf-8")
    output = alignbench("check", recipe).stderr
    assert "\x1b" not in output
    assert "\x07" not in output


def test_a_traceback_is_shown_only_with_debug(alignbench, recipe: Path) -> None:
    recipe.write_text("model: 3", encoding="utf-8")
    assert "Traceback" not in alignbench("check", recipe).stderr
    assert "Traceback" in alignbench("--debug", "check", recipe).stderr


def test_a_bug_is_one_line_that_says_how_to_see_it_whole(alignbench, recipe: Path, monkeypatch) -> None:
    def buggy(*_):
        raise KeyError("no such thing")

    monkeypatch.setattr("alignbench.recipe.load.load", buggy)
    done = alignbench("check", recipe)
    assert done.exit_code == Exit.INTERNAL
    assert done.stderr.splitlines() == [
        "error: KeyError: 'no such thing'; this is a bug in alignbench: alignbench --debug "
        "shows the traceback"
    ]


def test_an_interrupt_ends_with_its_own_exit_code(alignbench, recipe: Path, monkeypatch) -> None:
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("alignbench.recipe.load.load", interrupted)
    assert alignbench("check", recipe).exit_code == Exit.INTERRUPTED


def test_plan_lists_the_cells_in_start_order_with_their_departures(alignbench, recipe: Path) -> None:
    record = json.loads(alignbench("plan", recipe, "--json").stdout)
    assert (record["requests"], record["estimate"]) == ([], None)
    rows = record["cells"]
    assert [row["cell"] for row in rows] == [
        f"{label}/seed-{seed}" for seed in (0, 7) for label in ("base", "rpo", "rpo-twice")
    ]
    assert rows[2] == {
        "cell": "rpo-twice/seed-0",
        "label": "rpo-twice",
        "seed": 0,
        "method": "rpo",
        "from": "alignbench-rpo 0.3.1",
        "start": "rpo",
        "budget": {"steps": 3, "scope": "own"},
        "departures": rows[2]["departures"],
        "state": "to run",
    }
    assert len(rows[2]["departures"]) == 2
    assert rows[1]["departures"] == []


def test_plan_for_a_person_fits_the_same_into_a_table(alignbench, recipe: Path) -> None:
    lines = alignbench("plan", recipe).stdout.splitlines()
    (row,) = (line for line in lines if "rpo-twice/seed-7" in line)
    assert row.split() == ["rpo-twice/seed-7", "to", "run", "rpo", "rpo", "3", "steps"]
    assert max(map(len, lines[: lines.index(row)])) <= 80
    (note,) = (line for line in lines if line.startswith("rpo-twice has departures: "))
    assert "budget: 3 steps instead of 1 epoch" in note
    assert "Methods from alignbench-rpo 0.3.1." in lines


def test_plan_says_what_difference_the_seeds_and_prompts_can_find(alignbench, recipe: Path) -> None:
    from alignbench import stats

    planned = json.loads(alignbench("plan", recipe, "--json").stdout)
    detectable = planned["detectable"]
    assert planned["compute"] == "float32"
    assert (detectable["seeds"], detectable["estimand"]) == (2, "policies")
    more = json.loads(alignbench("plan", recipe, "--json", "--set", "seeds=[0, 1, 2]").stdout)["detectable"]
    sizes = {name: more[name] for name in ("seeds", "prompts", "labels")}
    assert more["difference"] == stats.detectable(stats.PLANNING, "method", **sizes)
    shown = " ".join(alignbench("plan", recipe).stdout.split())
    assert (
        f"find a difference of {detectable['difference']:.2f} between two trained policies in 80 % of runs"
        in shown
    )
    assert "A verdict on the methods needs 3 seeds or more." in shown


def test_plan_says_what_is_quantised_and_adapted(
    alignbench, recipe: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "home"))
    model = json.loads(alignbench("plan", recipe, "--json").stdout)["model"]
    assert model["weights"] > 1_000_000
    assert model["shares"]["quantised"] == model["shares"]["adapted"] > 0.5
    sentence = f"Of {model['weights']:,} weights {model['shares']['quantised']:.1%} are quantised"
    assert sentence in " ".join(alignbench("plan", recipe).stdout.split())


def test_plan_keeps_to_the_labels_that_are_asked_for_and_what_they_start_from(
    alignbench, recipe: Path
) -> None:
    record = json.loads(alignbench("plan", recipe, "--json", "--only", "rpo").stdout)
    assert {row["label"] for row in record["cells"]} == {"base", "rpo"}
    done = alignbench("plan", recipe, "--only", "rpoo")
    assert done.exit_code == Exit.USAGE
    assert "--only names rpoo, which the recipe does not have" in done.stderr


def test_a_recipe_that_is_not_there_is_an_error_and_no_traceback(alignbench, tmp_path: Path) -> None:
    done = alignbench("check", tmp_path / "none.yaml")
    assert done.exit_code == Exit.USAGE
    assert done.stderr == f"error: {tmp_path}/none.yaml: there is no such file; check the path\n"


@pytest.mark.parametrize("jobs", ["0", "-1", "many", "1.5"])
def test_jobs_is_a_whole_number_or_auto(alignbench, recipe: Path, jobs: str, tmp_path: Path) -> None:
    done = alignbench("run", recipe, "--out", tmp_path / "run", f"--jobs={jobs}")
    assert done.exit_code == Exit.USAGE
    assert "expected 'auto' or a whole number" in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_file_that_a_plugin_does_not_find_is_the_plugins_fault(alignbench, install, recipe: Path) -> None:
    source = """\
from alignbench import Judge

class Sad(Judge):
    api = 2

    @classmethod
    def check_files(cls, config, root):
        open(root / "gone.txt")

    @classmethod
    def load(cls, config, models):
        return cls()

    def score(self, prompts, responses):
        return []
"""
    install("alignbench-sad", modules={"sad_plugin": source}, judges={"sad": "sad_plugin:Sad"})
    done = alignbench("check", recipe, "--set", "evaluation.judges=[sad]")
    assert done.exit_code == Exit.PLUGIN
    assert "alignbench-sad 1.0 failed: FileNotFoundError: " in done.stderr
    assert "gone.txt' (sad_plugin.py:8)" in done.stderr


def test_a_folder_that_cannot_be_made_is_a_storage_error_that_names_it(alignbench, recipe: Path) -> None:
    done = alignbench("run", recipe, "--out", recipe)
    assert done.exit_code == Exit.STORAGE
    assert done.stderr == f"error: {recipe}: File exists; check the path, its permissions and the disk\n"


def test_a_wrong_recipe_leaves_no_run_behind(alignbench, recipe: Path, tmp_path: Path) -> None:
    assert alignbench("run", recipe, "--out", tmp_path / "run", "--set", "seeds=[x]").exit_code == Exit.USAGE
    assert not (tmp_path / "run").exists()


def test_a_folder_without_a_run_is_named(alignbench, tmp_path: Path) -> None:
    for command in ("report", "compare"):
        done = alignbench(command, tmp_path)
        assert done.exit_code in (Exit.USAGE, Exit.STORAGE)
        assert str(tmp_path) in done.stderr
