"""The walls between core, plugins and other libraries."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import alignbench
from alignbench import Run, layout

ROOT = Path(__file__).parents[2]
LAYOUT = ROOT / "alignbench/layout.py"
CORE = sorted((ROOT / "alignbench").rglob("*.py"))
PLUGINS = sorted(file for file in (ROOT / "plugins").rglob("*.py") if "tests" not in file.parts)
TESTS = sorted([*(ROOT / "tests").rglob("*.py"), *(ROOT / "plugins").glob("*/tests/**/*.py")])
OURS = [*CORE, *sorted((ROOT / "plugins").rglob("*.py")), *sorted((ROOT / "benchmarks").rglob("*.py"))]

PUBLIC = (
    "alignbench",
    "alignbench.feedback",
    "alignbench.integrations",
    "alignbench.launchers",
    "alignbench.reference",
    "alignbench.rewards",
    "alignbench.rollouts",
    "alignbench.spending",
    "alignbench.testing",
)
"""Modules that a plugin may import from."""

BANNED = {
    "pickle": "a pickle runs code when it is read",
    "cPickle": "a pickle runs code when it is read",
    "dill": "a pickle runs code when it is read",
    "joblib": "a pickle runs code when it is read",
    "cloudpickle": "a pickle runs code when it is read",
    "shelve": "a pickle runs code when it is read",
}


def method_names() -> set[str]:
    """The names that the first-party plugins give, from their own metadata."""
    names: set[str] = set()
    for file in (ROOT / "plugins").glob("*/pyproject.toml"):
        points = tomllib.loads(file.read_text(encoding="utf-8"))["project"].get("entry-points", {})
        names |= set(points.get("alignbench.methods", {}))
    return names


def where(file: Path, line: int) -> str:
    return f"{file.relative_to(ROOT)}:{line}"


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(file: Path) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Every import of a file: its line, the module, and the names taken from it."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, ()
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.lineno, node.module or "", tuple(alias.name for alias in node.names)


def test_there_are_files_and_names_to_look_at() -> None:
    assert len(CORE) > 30
    assert len(PLUGINS) >= 4
    assert {"sft", "dpo", "orpo", "few-shot", "frozen"} <= method_names()


# English words and libraries that are also names of methods may stand in a sentence; `frozen=True` makes data frozen,
# and ranks have ties.
OTHERWISE_KNOWN = {"frozen", "ties", "trl"}


def test_the_core_names_no_method() -> None:
    words = re.compile(
        rf"(?<![\w-])({'|'.join(sorted(method_names() - OTHERWISE_KNOWN))})(?![\w-])", re.IGNORECASE
    )
    names = method_names() - {"trl"}  # which the core asks for its version
    strings = {f'"{name}"' for name in names} | {f"'{name}'" for name in names}
    found = []
    for file in CORE:
        text = file.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), start=1):
            found += [f"{where(file, number)}: {word.group()}" for word in words.finditer(line)]
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.STRING and token.string in strings:
                found.append(f"{where(file, token.start[0])}: {token.string}")
    assert found == []


def test_the_core_imports_no_plugin() -> None:
    found = [
        f"{where(file, line)}: {module}"
        for file in CORE
        for line, module, _ in imports(file)
        if module.startswith("alignbench_")
    ]
    assert found == []


def test_a_plugin_uses_only_what_is_public_and_no_other_plugin() -> None:
    found = []
    for file in PLUGINS:
        own = next(part for part in file.parts if part.startswith("alignbench_"))
        for line, module, names in imports(file):
            top = module.partition(".")[0]
            private = top == "alignbench" and (
                module not in PUBLIC
                or (module == "alignbench" and not set(names) <= {*alignbench.__all__, "testing"})
            )
            if private or (top.startswith("alignbench_") and top != own):
                found.append(f"{where(file, line)}: {module} {', '.join(names)}")
    assert found == []


def test_no_class_overrides_a_private_method_of_a_library() -> None:
    """A library may rename what it keeps to itself, and its own method would then run without a word."""
    from transformers import PreTrainedModel, Trainer
    from trl import DPOTrainer, GRPOTrainer, KTOTrainer, SFTTrainer

    theirs = {
        name
        for kind in (Trainer, DPOTrainer, GRPOTrainer, KTOTrainer, SFTTrainer, PreTrainedModel)
        for name in dir(kind)
        if name.startswith("_") and not name.startswith("__")
    }
    found = [
        f"{where(file, method.lineno)}: {kind.name}.{method.name}"
        for file in OURS
        for kind in ast.walk(tree(file))
        if isinstance(kind, ast.ClassDef) and not {"", "TrainerCallback"} >= set(map(ast.unparse, kind.bases))
        for method in kind.body
        if isinstance(method, ast.FunctionDef) and method.name in theirs
    ]
    assert found == []


LIBRARIES = ("bitsandbytes", "lm_eval", "peft", "torch", "transformers", "trl")
PRIVATE_IMPORTS = {
    ("alignbench/metrics/harness.py", "lm_eval.tasks._yaml_loader.load_yaml"): (
        "reads the harness's files of tasks, for which the harness has no public function"
    ),
    ("alignbench/models/weights/shapes.py", "torch.utils._python_dispatch.TorchDispatchMode"): (
        "the name under which torch's notes on extending it document this class"
    ),
    ("alignbench/models/weights/skeleton.py", "torch._subclasses.fake_tensor.FakeTensorMode"): (
        "the name under which torch's page on fake tensors documents this class"
    ),
}
"""What is imported though its library keeps it to itself, with the reason."""
PRIVATE_ATTRIBUTES = {
    "alignbench/models/stack.py": "what this project does against the grain of torch, transformers and peft",
    "alignbench/testing/suite.py": "a module has no public list of its hooks",
}
"""Files that read or set a private attribute of a library's object, with the reason."""
OPERATORS = "torch.ops."
"""Operators of torch, some of which begin with an underscore, have no other name."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_imports(file: Path) -> Iterator[str]:
    """Yield what a file imports from a library's private modules, or by a private name."""
    for _, module, names in imports(file):
        for name in [f"{module}.{name}" for name in names] or [module]:
            first, *rest = name.split(".")
            if first in LIBRARIES and any(map(is_private, rest)):
                yield name


def private_attributes(files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield the private attributes that files read or set and none of them defines, with the file."""
    nodes = [(file, node) for file in files for node in ast.walk(tree(file))]
    ours = {"_asdict"}  # which a named tuple documents
    for _, node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            ours.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            ours.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            ours |= {node.attr} if ast.unparse(node.value) in ("self", "cls") else set()
    for file, node in nodes:
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in ours:
            yield file.relative_to(ROOT).as_posix(), ast.unparse(node)


def test_no_private_name_of_a_library_is_imported_but_for_a_reason() -> None:
    found = {
        (str(file.relative_to(ROOT)), name) for file in [*CORE, *PLUGINS] for name in private_imports(file)
    }
    assert found == set(PRIVATE_IMPORTS)


def test_no_private_attribute_of_a_library_is_used_but_for_a_reason() -> None:
    used = private_attributes([*CORE, *PLUGINS])
    assert {file for file, name in used if not name.startswith(OPERATORS)} == set(PRIVATE_ATTRIBUTES)


OURS_TO_HAND_OUT = {"base", "critic", "decoding", "judge", "policy", "reference", "reward", "run", "start"}
"""What the core hands a plugin: its type is public, and so is every attribute that a plugin reads."""


def beyond_the_contract(source: ast.Module) -> Iterator[tuple[int, str]]:
    """Attribute accesses and annotations by which a plugin would leave the public, typed contract."""
    run_has = {name for name in (*vars(Run), *Run.__annotations__) if not name.startswith("_")}
    for node in ast.walk(source):
        if isinstance(node, ast.Attribute):
            owner = ast.unparse(node.value)
            private = node.attr.startswith("_") and not node.attr.startswith("__")
            if private and owner not in ("self", "cls"):
                yield node.lineno, f"{owner}.{node.attr} is private"
            if isinstance(node.value, ast.Attribute) and node.value.attr == "base" and owner != "self.base":
                yield node.lineno, f"{owner}.{node.attr} reaches through a policy"
            if owner.split(".")[-1] == "run" and node.attr not in run_has:
                yield node.lineno, f"{owner}.{node.attr} is not in the contract of a run"
        named = {ast.arg: "arg", ast.AnnAssign: "target"}.get(type(node))
        if named is not None and ast.unparse(node.annotation or node) == "Any":
            name = ast.unparse(node.target) if isinstance(node, ast.AnnAssign) else getattr(node, named)
            if name.split(".")[-1] in OURS_TO_HAND_OUT:
                yield node.lineno, f"{name} is Any, which nobody checks"


def test_a_plugin_reads_only_what_the_contract_types() -> None:
    found = [
        f"{where(file, line)}: {what}" for file in PLUGINS for line, what in beyond_the_contract(tree(file))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run.start.base.policy()", "run.start.base.policy reaches through a policy"),
        ("decoding._pool", "decoding._pool is private"),
        ("self.run.session", "self.run.session is not in the contract of a run"),
        ("start: Any = run.start", "start is Any, which nobody checks"),
        ("def f(self, policy: Any): pass", "policy is Any, which nobody checks"),
    ],
)
def test_what_leaves_the_contract_is_found(line: str, message: str) -> None:
    assert [what for _, what in beyond_the_contract(ast.parse(line))] == [message]


def test_a_plugin_depends_on_the_core_alone_and_on_a_range_of_it() -> None:
    for file in (ROOT / "plugins").glob("*/pyproject.toml"):
        needs = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]
        assert [need for need in needs if need.startswith("alignbench")] == ["alignbench>=0.1,<0.2"], file


def test_every_public_name_is_there() -> None:
    for name in alignbench.__all__:
        assert getattr(alignbench, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        alignbench.nothing  # noqa: B018


def test_public_names_are_told_to_type_checkers_too() -> None:
    declared = {
        name for _, module, names in imports(ROOT / "alignbench/__init__.py") for name in names if module
    }
    assert set(alignbench.__all__) <= declared


def test_a_file_imports_only_from_lower_layers() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 kept, 0 broken" in ran.stdout


def test_the_architecture_page_lists_the_layers_in_their_order() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    table = page.partition("| package | purpose |")[2].partition("\n\n")[0]
    rows = [set(re.findall(r"`(\w+)/?`", row.split("|")[1])) for row in table.splitlines()[2:]]
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = [set(re.findall(r"\w+", layer)) for layer in contracts[0]["layers"]]
    assert rows == layers[::-1]


def test_the_recipe_is_resolved_by_the_parent_alone() -> None:
    """What runs in a child reads the plan: it cannot ask the recipe a second time."""
    children = ("data", "evaluation", "feedback", "judges", "label", "metrics", "models", "rewards")
    children += ("training", "worker")
    theirs = {f"alignbench.recipe.{name}" for name in ("check", "graph", "load", "resolve")}
    found = [
        f"{where(file, line)}: {module}"
        for file in CORE
        if file.relative_to(ROOT).parts[1] in children
        for line, module, names in imports(file)
        if theirs & {module, *(f"{module}.{name}" for name in names)}
    ]
    assert found == []


def test_no_files_import_each_other_in_a_circle() -> None:
    """Type-only imports included; the lazy facade `alignbench/__init__` is the only arrow upwards."""
    from graphlib import CycleError, TopologicalSorter

    import grimp

    graph = grimp.build_graph("alignbench", exclude_type_checking_imports=False, cache_dir=None)
    needs = {
        module: graph.find_modules_directly_imported_by(module) - {"alignbench"}
        for module in graph.modules - {"alignbench"}
    }
    assert sum(map(len, needs.values())) > 500
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))


def test_nothing_of_ours_reads_or_writes_pickles() -> None:
    found = [
        f"{where(file, line)}: {module} ({BANNED[module.partition('.')[0]]})"
        for file in OURS
        for line, module, _ in imports(file)
        if module.partition(".")[0] in BANNED
    ]
    for file in OURS:
        for node in ast.walk(tree(file)):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("torch.load", "torch.save"):
                found.append(f"{where(file, node.lineno)}: {ast.unparse(node)} (it is a pickle)")
    assert found == []


def test_nothing_of_ours_trusts_remote_code() -> None:
    found = [
        where(file, node.value.lineno)
        for file in OURS
        for node in ast.walk(tree(file))
        if isinstance(node, ast.keyword)
        and node.arg == "trust_remote_code"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert found == []


def test_yaml_is_read_strictly_or_not_at_all() -> None:
    found = [
        f"{where(file, node.lineno)}: {ast.unparse(node)}"
        for file in OURS
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Attribute)
        and re.fullmatch(r"yaml\.\w*(load|compose|Loader)\w*", ast.unparse(node))
    ]
    assert {one.partition(":")[0] for one in found} == {"alignbench/recipe/yaml.py"}


def test_every_file_begins_by_saying_what_it_is_for() -> None:
    files = (*CORE, *PLUGINS, *(file for file in TESTS if file.read_text(encoding="utf-8").strip()))
    silent = [str(file.relative_to(ROOT)) for file in files if not ast.get_docstring(tree(file))]
    assert silent == []


OTHERS_FORMATS = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "config.json",
    "dataset_dict.json",
    "dataset_info.json",
    "dataset_infos.json",
    "model.safetensors",
    "state.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
}
"""Files that other libraries name."""

FILE_NAME = re.compile(r"[\w{}-]+\.(json|jsonl|parquet|log|safetensors)")


def file_names(file: Path) -> Iterator[tuple[int, str]]:
    """Every file name that a module writes down, with its line; the filled-in parts of an f-string as `{}`."""
    for node in ast.walk(tree(file)):
        name = ""
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            name = node.value
        elif isinstance(node, ast.JoinedStr):
            name = "".join(one.value if isinstance(one, ast.Constant) else "{}" for one in node.values)
        if FILE_NAME.fullmatch(name) and name not in OTHERS_FORMATS:
            yield node.lineno, name
    yield from names_without_ending(tree(file))


def names_without_ending(source: ast.Module) -> Iterator[tuple[int, str]]:
    """Every hidden file's name, and every constant without an ending, that a module appends to a path."""
    appended = {
        ast.unparse(node.right)
        for node in ast.walk(source)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    }
    for node in ast.walk(source):
        constant = isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        if constant and ast.unparse(node.targets[0]) in appended and str(node.value.value).isalpha():
            yield node.lineno, node.value.value
        if isinstance(node, ast.Constant) and str(node.value)[:1] == "." and repr(node.value) in appended:
            yield node.lineno, node.value


def test_a_file_name_without_an_ending_is_found() -> None:
    source = 'SECRET = "secret"\nOTHER = "x"\nopen(folder / SECRET)\nopen(folder / "a" / ".lock")'
    assert list(names_without_ending(ast.parse(source))) == [(1, "secret"), (4, ".lock")]


OF_THE_STORE = {("alignbench/store.py", "COMMIT"), ("alignbench/store.py", ".cache")}
"""The manifest of a sealed folder, which is in folders of no run too; the user's cache folder."""


def test_the_layout_alone_names_the_files_of_a_run() -> None:
    shipped = ROOT / "alignbench/sandbox"  # the record of the sandbox's own model
    elsewhere = [file for file in CORE if file != LAYOUT and not file.is_relative_to(shipped)]
    assert len(list(file_names(LAYOUT))) > 20
    found = [(file, line, name) for file in elsewhere for line, name in file_names(file)]
    assert [
        f"{where(file, line)}: {name}"
        for file, line, name in found
        if (str(file.relative_to(ROOT)), name) not in OF_THE_STORE
    ] == []


def test_the_architecture_page_shows_every_file_of_a_run_and_no_other() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    block = page.split("```\nruns/")[1].split("```")[0]
    shown = set(re.findall(r"[\w.-]+\.(?:json|jsonl|parquet|log|html|yaml|txt)\b", block))
    run = LAYOUT.read_text(encoding="utf-8").split("# Shared artefacts")[0]
    named = set(re.findall(r'= "([\w.]+\.\w+)"', run)) - {layout.CHECKPOINT, layout.CHECKPOINT_TENSORS}
    of_splits = {layout.rows_file(split) for split in ("train", "validation", "test")}
    of_splits |= {layout.texts_file(split) for split in ("train", "test")}
    assert shown == named | of_splits | {layout.training_log(1)}
    without_ending = set(re.findall(r'= "(\w+|\.\w+)"', run)) - {layout.OF_ROWS}
    assert {layout.SECRET, layout.TRACKING_LOCK, layout.PEOPLE} < without_ending
    assert without_ending - set(re.findall(r"[\w.-]+", block)) == set()


RESOLVES = ("alignbench/engine/tuning.py", "alignbench/engine/environment.py")
"""Files that change a recipe before it is resolved, or compare two recipes."""


def test_what_reads_the_plan_does_not_ask_the_recipe_about_labels_again() -> None:
    asked = [
        path.relative_to(ROOT).as_posix()
        for folder in ("engine", "launchers", "models", "worker")
        for path in sorted((ROOT / "alignbench" / folder).rglob("*.py"))
        if re.search(r"recipe\.methods\b|\[\"methods\"\]|resolve\(.*recipe", path.read_text(encoding="utf-8"))
    ]
    assert [path for path in asked if path not in (*RESOLVES, "alignbench/engine/run.py")] == []
