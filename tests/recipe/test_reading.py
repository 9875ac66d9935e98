"""A recipe is read from its file; every problem is named at once with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from alignbench.errors import Exit, PluginError, RecipeError
from alignbench.recipe.load import load

HEAD = "model: {id: sandbox}\ndata: {train: sandbox}\n"
GOOD = HEAD + "methods: {learner: {}}\n"


def test_a_good_recipe_is_read_with_its_text_and_its_file(loaded, tmp_path: Path) -> None:
    read = loaded()
    assert read.recipe.methods["learner"].config["rate"] == 0.5
    assert read.path == tmp_path / "r.yaml"
    assert read.text.startswith("model:")


def test_everything_wrong_is_said_at_once_in_the_order_of_the_file(problems) -> None:
    found = problems("""\
model: {id: sandbox, quantisation: nf4}
data: {limit: "5"}
training:
  batch: 16.5
  schedule: cosin
  warmup: 2
  micro_batch: many
methods:
  learner: {rte: 0.1, training: {batch: 0}}
  again: {method: learner, rate: -1, start: lerner}
  Loud: {method: learner}
seeds: [true, 1]
""")
    assert found == [
        "r.yaml:1:22: model.quantisation: unknown; did you mean 'quantization'?",
        "r.yaml:2:7: data.train: is missing; add it; it is: A data source plugin, a JSONL or Parquet file, a "
        "folder, or a hub id",
        "r.yaml:2:15: data.limit: expected a whole number, got the text '5'; remove the quotes",
        "r.yaml:4:10: training.batch: expected a whole number, got 16.5; it is: Rows of one optimiser step",
        "r.yaml:5:13: training.schedule: expected 'cosine' or 'linear' or 'constant', got the text 'cosin'; "
        "did you mean 'cosine'?",
        "r.yaml:6:11: training.warmup: must be at most 1, got 2; it is: Share of the steps in which the "
        "learning rate rises",
        "r.yaml:7:16: training.micro_batch: expected 'auto' or a whole number, got the text 'many'; it is: "
        "Rows of one forward; auto measures the memory of a token, takes what fits, and accumulates to `batch`",
        "r.yaml:9:13: methods.learner.rte: unknown; did you mean 'rate'?",
        "r.yaml:9:41: methods.learner.training.batch: must be at least 1, got 0; it is: Rows of one "
        "optimiser step",
        "r.yaml:10:34: methods.again.rate: must be more than 0, got -1; it is: How fast it learns",
        "r.yaml:10:45: methods.again.start: there is no label 'lerner'; did you mean 'learner'?",
        "r.yaml:11:3: methods.Loud: 'Loud' cannot be a name; use small letters, digits, '.', '_' and '-', 64 "
        "at most, a letter or digit first",
        "r.yaml:12:9: seeds[0]: expected a whole number, got true",
    ]


def test_a_key_given_twice_and_a_number_too_large_hide_nothing_else(problems) -> None:
    found = problems("""\
model: {id: sandbox, quantisation: nf4}
data: {train: sandbox}
budget: {epochs: 1e400}
methods:
  learner: {rate: 1, rate: 2, rte: 3}
budget: {steps: 3}
seeds: [4294967296]
""")
    assert found == [
        "r.yaml:1:22: model.quantisation: unknown; did you mean 'quantization'?",
        "r.yaml:3:18: budget.epochs: 1e400 is too large for a number; put quotes around it if it is a text",
        "r.yaml:5:22: methods.learner.rate: given twice, first in line 5; keep one of them",
        "r.yaml:5:31: methods.learner.rte: unknown; did you mean 'rate'?",
        "r.yaml:6:1: budget: given twice, first in line 3; keep one of them",
        "r.yaml:7:9: seeds[0]: must be less than 4294967296, got 4294967296",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "r.yaml:1:1: expected a recipe, got 3; write at least model, data and methods"),
        (HEAD, "r.yaml:1:1: methods: is missing; add it"),
        (HEAD + "methods: {}", "methods: a block of keys is empty"),
        (HEAD + "methods: [learner]", "methods: expected a block of keys, got a list"),
        (HEAD + "methods: {learner: 3}", "methods.learner: expected a block of keys, got 3"),
        (HEAD + "methods: {base: {method: learner}}", ":3:11: methods.base: 'base' is reserved for the"),
        (HEAD + "methods: {base: {}}", "methods.base: 'base' is reserved for the untouched model"),
        (HEAD + "methods: {../x: {}}", "methods.../x: '../x' cannot be a name; use small letters"),
        (HEAD + "methods: {learner: {sweep: {lr: []}}}", "methods.learner.sweep.lr"),
        (HEAD + "methods: {learner: {kind: odd, rate: 1}}", "odd learners need a rate below 1; lower it"),
        (HEAD + "methods: {learner: {start: [x]}}", "expected 'base', another label, {adapter: path-or-id}"),
        (HEAD + "methods: {learner: {start: {adapter: 3}}}", "start.adapter: expected a text, got 3; put it"),
        (HEAD + "methods: {learner: {start: {adaptr: x}}}", "adaptr: unknown; a start is 'base', a label"),
        (HEAD + "methods: {learner: {config: {rate: 1}, rte: 2}}", "methods.learner.rte: unknown"),
        (GOOD.replace("sandbox}\nd", "sandbox, adapter: {targets: []}}\nd"), "a list that is not empty"),
        (HEAD + "methods: {learner: {budget: {rows: 1, steps: 2}}}", "budget: set exactly one of epochs"),
        (HEAD + "methods: {reader: {}}", "'reader' reads plain text; name a source in data.pretraining"),
        (HEAD + "methods: {learner: {kind: bookish}}", "'learner' reads plain text; name a source in"),
        (GOOD + "budget: {epochs: true}", "budget.epochs: expected a number, got true"),
        (GOOD + "seeds: [1, 1]", "seeds: a seed is given twice; keep one"),
        (GOOD + "evaluation: {prompts: 1}", "evaluation.prompts: must be at least 2"),
        (GOOD + "evaluation: {judges: [gold, gold]}", "'gold' is given twice"),
        (GOOD + "evaluation: {judges: [golde]}", "judges[0]: no installed plugin provides the judge 'golde'"),
        (GOOD + "evaluation: {metrics: [{a: 1, b: 2}]}", "expected a name, or one name with its fields"),
        (GOOD + "evaluation: {metrics: [{length: {x: 1}}]}", "metrics[0].length.x: unknown"),
        (GOOD.replace("sandbox}\nm", "sandbox, split: {test: 0.9}}\nm"), "leave no row to train on"),
    ],
)
def test_a_mistake_is_told_as_a_person_would(problems, text: str, message: str) -> None:
    found = problems(text)
    assert len(found) == 1
    assert message in found[0]


def test_a_folder_that_holds_no_model_is_seen_before_anything_is_loaded(problems, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert problems(GOOD.replace("id: sandbox", "id: ./empty")) == [
        "r.yaml:1:13: model.id: './empty' holds no config.json, so it is not a model; "
        "name a model's folder, or a GGUF file"
    ]


def test_an_unknown_method_is_a_plugin_error_with_a_suggestion(recipe) -> None:
    with pytest.raises(PluginError) as caught:
        load(recipe(HEAD + "methods: {lerner: {}}"))
    assert caught.value.exit_code == Exit.PLUGIN
    assert "no installed plugin provides the method 'lerner'. Did you mean 'learner'?" in str(caught.value)
    assert (caught.value.problems[0].line, caught.value.problems[0].column) == (3, 11)


def test_a_recipe_that_is_wrong_besides_is_a_recipe_error(recipe) -> None:
    with pytest.raises(RecipeError) as caught:
        load(recipe(HEAD + "methods: {lerner: {}}\nsedes: [1]"))
    assert len(caught.value.problems) == 2


def test_a_broken_plugin_harms_only_the_recipe_that_names_it(install, loaded, problems) -> None:
    install(
        "broken-plugin", modules={"broken_plugin": "import there_is_none"}, methods={"sad": "broken_plugin:X"}
    )
    loaded()
    assert problems(HEAD + "methods: {sad: {}, glad: {method: sad}}") == [
        "r.yaml:3:11: methods.sad: broken-plugin 1.0 could not be loaded for 'sad': "
        "No module named 'there_is_none'"
    ]


def test_starts_that_go_in_a_circle_are_named_in_order(problems) -> None:
    text = HEAD + "methods:\n" + "".join(
        f"  {label}: {{method: learner, start: {start}}}\n" for label, start in ("ab", "bc", "ca")
    )  # fmt: skip
    assert problems(text) == [
        "r.yaml:4:3: methods.a: starts from itself: a -> b -> c -> a; let one of them say start: base"
    ]


def test_labels_that_name_each_other_are_told_to_name_another(install, problems) -> None:
    text = HEAD + "methods:\n" + "".join(
        f"  {label}: {{method: ties, start: base, labels: [{other}]}}\n" for label, other in ("ab", "ba")
    )  # fmt: skip
    assert problems(text) == [
        "r.yaml:4:3: methods.a: needs itself: a -> b -> a; let one of them name another label"
    ]


def test_a_method_that_inherits_itself_as_start_is_told_to_start_from_base(problems) -> None:
    assert (
        "methods.learner: starts from itself: learner -> learner; let one of them say start: base"
        in (problems(HEAD + "start: learner\nmethods: {learner: {}}")[0])
    )


def test_training_from_a_decoder_is_refused_before_anything_runs(problems, loaded):
    blocks = (
        "{sft: {method: learner}, found: {method: searcher, start: sft}, next: {method: %s, start: found}}"
    )
    assert problems(HEAD + f"methods: {blocks % 'learner'}") == [
        "r.yaml:3:105: methods.next.start: 'next' cannot train from 'found', which is a decoder and has no "
        "weights of its own; let it start from the label that the decoder starts from"
    ]
    assert loaded(HEAD + f"methods: {blocks % 'searcher'}"), "one decoder may stand on another"


def test_a_field_that_reads_weights_names_no_decoder(problems, loaded):
    blocks = "{sft: {method: learner}, found: {method: searcher}, merger: {labels: [sft, %s], asked: found}}"
    (found,) = problems(HEAD + f"methods: {blocks % 'found'}")
    assert found.endswith(
        "methods.merger.labels: 'merger' reads the weights of 'found', which is a decoder and has none; "
        "name the label that the decoder starts from"
    )
    assert loaded(HEAD + f"methods: {blocks % 'sft'}")


def test_a_search_of_a_search_is_refused_where_the_method_says_that_it_cannot(problems, loaded):
    block = "found: {method: searcher}, next: {method: digger%s}"
    (found,) = problems(HEAD + f"methods: {{{block % ', start: found'}}}")
    assert found.endswith(
        "methods.next.start: 'next' cannot decode 'found', which is a decoder and has no weights of its own; "
        "let it start from the label that the decoder starts from"
    )
    (found,) = problems(HEAD + "start: found\nmethods: {found: {method: searcher, start: base}, "
                       "next: {method: digger}}")  # fmt: skip
    assert ": start: 'next' cannot decode 'found'" in found, "also where all start from it"
    assert loaded(HEAD + f"methods: {{{block % ''}}}")


def test_a_field_that_names_a_label_is_checked_and_is_an_edge(problems) -> None:
    text = HEAD + "methods: {learner: {teacher: bset}, best: {method: learner, parents: [base, learner, x]}}"
    found = problems(text)
    assert found == [
        "r.yaml:3:30: methods.learner.teacher: there is no label 'bset'; did you mean 'best'?",
        "r.yaml:3:70: methods.best.parents: there is no label 'x'; it can be learner, best, base",
    ]
    circle = HEAD + "methods: {learner: {teacher: best}, best: {method: learner, parents: [learner]}}"
    assert "learner -> best -> learner" in problems(circle)[0]


def test_a_relative_path_starts_from_the_folder_of_the_recipe(problems, loaded, tmp_path: Path) -> None:
    text = HEAD.replace("{id: sandbox}", "{id: ./model}") + "methods: {learner: {}}"
    assert problems(text)[0].startswith("r.yaml:1:13: model.id: there is no './model'; relative paths start")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert loaded(text).recipe.model.id == "./model"


def test_a_source_may_be_a_file_and_its_rows_decide_which_methods_can_read_them(
    problems, loaded, install, tmp_path: Path
) -> None:
    rows = '{"prompt": "p", "completion": "c"}\n'
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    text = HEAD.replace("train: sandbox", "train: rows.jsonl") + "methods: {learner: {}}"
    assert problems(text) == [
        "r.yaml:3:11: methods.learner: 'learner' reads Pair rows, which cannot be made of Demonstration "
        "rows; name other data in data.train"
    ]
    (tmp_path / "rows.jsonl").write_text(
        '{"prompt": "p", "chosen": "c", "rejected": "r"}\n', encoding="utf-8"
    )
    assert loaded(text).recipe.data.train.name == "rows.jsonl"


def test_a_source_that_is_not_there_is_said_with_its_place(problems) -> None:
    found = problems(HEAD.replace("train: sandbox", "train: ./rows.jsonl") + "methods: {learner: {}}")
    assert len(found) == 1
    assert found[0].startswith("r.yaml:2:15: data.train: there is no such file")


def test_a_hub_id_needs_no_network_to_be_checked(loaded) -> None:
    text = HEAD.replace("train: sandbox", "train: some/where") + "methods: {learner: {}}"
    assert loaded(text).recipe.data.train.name == "some/where"


def test_an_override_sets_one_value_by_the_same_strict_rules(loaded) -> None:
    read = loaded(GOOD, "methods.learner.rate=1e-5", "seeds=[1, 2]", "model.revision=no")
    assert read.recipe.methods["learner"].config["rate"] == 1e-5
    assert read.recipe.seeds == [1, 2]
    assert read.recipe.model.revision == "no"
    assert read.overrides[1] == "seeds=[1, 2]"


def test_an_override_finds_labels_with_dots_empty_blocks_list_items_and_new_keys(loaded) -> None:
    text = HEAD + "methods: {v1.5: {method: learner, rate: 1}, learner: }\nseeds: [0, 1]"
    read = loaded(text, "methods.v1.5.rate=2", "methods.learner.rate=3", "seeds.1=7", "training.batch=4")
    assert read.recipe.methods["v1.5"].config["rate"] == 2
    assert read.recipe.methods["learner"].config["rate"] == 3
    assert read.recipe.seeds == [0, 7]
    assert read.recipe.training.batch == 4


def test_a_problem_of_an_override_stands_at_the_override(problems) -> None:
    text = HEAD + "methods: {learner: {rate: 1}}"
    assert problems(text, "methods.learner.rate=fast") == [
        "--set methods.learner.rate=fast: methods.learner.rate: expected a number, got the text 'fast'; it "
        "is: How fast it learns"
    ]
    assert problems(text, "methods.learner.rte=1") == [
        "--set methods.learner.rte=1: methods.learner.rte: unknown; did you mean 'rate'?"
    ]
    assert problems(text, "seeds=[1")[0].startswith("--set seeds=[1: seeds: not YAML")
    assert problems(text, "seeds") == ["--set seeds: no value is set; write it as --set a.b=c"]
    assert problems(text, "model.id.x=1")[0].startswith(
        "--set model.id.x=1: model.id.x: model.id is the text"
    )
    assert "r.yaml" not in problems(text, "data.train=nothing")[0]


def test_a_problem_of_the_file_that_an_override_mends_is_gone(loaded) -> None:
    assert loaded(HEAD + "methods: {learner: {rate: fast}}", "methods.learner.rate=2").recipe


@pytest.mark.parametrize(
    "name", ["../../x", "/abs", "~", "CON", "a" * 300, "\u202edpo", "a b", "a/b", ".hidden", "dpo\\n", ""]
)
def test_a_name_that_could_leave_its_folder_is_refused(problems, name: str) -> None:
    assert any(
        "cannot be a name" in line for line in problems(HEAD + f'methods: {{"{name}": {{method: learner}}}}')
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [("\u00a0\u00a0start", "U\\+00A0 \\(no-break space\\)"), ("start\uff1a x", "fullwidth colon")],
)
def test_a_key_with_a_character_that_only_looks_plain_is_named(key: str, message: str, tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text(
        f"model: {{id: sandbox}}\ndata: {{train: sandbox}}\nmethods: {{sft: {{}}}}\n'{key}': base\n",
        encoding="utf-8",
    )
    with pytest.raises(RecipeError, match=f"it holds .*{message}"):
        load(tmp_path / "recipe.yaml")
