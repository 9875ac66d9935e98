"""What TRL's trainers take, read from their source: a recipe is checked without importing TRL, and so without torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.util import find_spec
from pathlib import Path

LED = {"model", "args", "train_dataset", "processing_class", "callbacks"}
"""Parameters by which a trainer is given everything: network, settings, rows, tokenizer, and what leads it."""
REFUSED = {
    "RewardTrainer": "trains a reward model, which answers nothing; trl-reward gives the best answers by it",
    "SDFTTrainer": "reads a privileged context of each prompt, which no view of the rows has",
    "SDPOTrainer": "reads a privileged context of each prompt, which no view of the rows has",
    "TPOTrainer": "reads a third answer of each row, which no view of the rows has",
}
READS = {
    "CPOTrainer": "pairs",
    "DPOTrainer": "pairs",
    "KTOTrainer": "unpaired",
    "ORPOTrainer": "pairs",
    "SFTTrainer": "demonstrations",
}
"""The rows that a trainer reads, by its name; of those that draw answers, prompts."""
DRAWING = frozenset(
    {
        "beta",
        "disable_dropout",
        "mask_truncated_completions",
        "min_p",
        "repetition_penalty",
        "scale_rewards",
        "top_k",
        "top_p",
    }
)
UPDATES: Mapping[str, frozenset[str]] = {
    "CPOTrainer": frozenset(
        {"alpha", "beta", "cpo_alpha", "disable_dropout", "label_smoothing", "loss_type", "simpo_gamma"}
    ),
    "DPOTrainer": frozenset(
        {
            "beta",
            "disable_dropout",
            "discopop_tau",
            "f_alpha_divergence_coef",
            "f_divergence_type",
            "label_smoothing",
            "ld_alpha",
            "loss_type",
            "loss_weights",
            "use_weighting",
        }
    ),
    "GMPOTrainer": DRAWING | {"top_entropy_quantile"},
    "GRPOTrainer": DRAWING
    | {
        "entropy_coef",
        "entropy_coef_delta",
        "entropy_coef_max",
        "entropy_coef_min",
        "entropy_target",
        "loss_type",
        "top_entropy_quantile",
        "use_adaptive_entropy",
        "use_bias_correction_kl",
    },
    "KTOTrainer": frozenset(
        {"beta", "desirable_weight", "disable_dropout", "loss_type", "undesirable_weight"}
    ),
    "ORPOTrainer": frozenset({"beta", "disable_dropout"}),
    "RLOOTrainer": (DRAWING - {"scale_rewards"}) | {"normalize_advantages", "reward_clip_range"},
    "RewardTrainer": frozenset({"center_rewards_coefficient", "disable_dropout"}),
    "SFTTrainer": frozenset({"loss_type"}),
}
"""Fields that change what a trainer learns, or how it draws answers, by its name.

How TRL loads, prepares rows, computes and logs is the run's. Of an untested trainer every field is taken.
"""
GROUPED = {"num_generations", "steps_per_generation", "shuffle_dataset"}
"""Fields that set how a trainer draws answers."""


@dataclass(frozen=True)
class Taken:
    """What a trainer takes."""

    rewards: bool
    """Whether it is given reward functions, and so prompts alone."""
    config: str
    """The class of its settings."""
    fields: Mapping[str, str]
    """What TRL adds to the settings of transformers' trainer: its annotation by name."""


@cache
def taken_by(trainer: str) -> Taken:
    """Return what a trainer takes, by its name in TRL: `DPOTrainer`, `experimental.orpo.ORPOTrainer`.

    Raises ValueError where there is no such trainer, or where it cannot be a method.
    """
    *folder, name = trainer.split(".")
    if folder and folder[0] != "experimental":
        raise ValueError(
            f"'{trainer}' is not a place in TRL: write DPOTrainer or experimental.orpo.ORPOTrainer"
        )
    classes = _classes("/".join(folder) or "trainer")
    known = sorted(one for one in classes if one.endswith("Trainer") and not one.startswith("_"))
    if name not in known:
        near = get_close_matches(name, known, 1)
        there = f"did you mean {near[0]}?" if near else f"there are {', '.join(known) or 'none'}"
        raise ValueError(f"TRL {_version()} has no trainer {trainer}; {there}")
    classes = {**_classes("trainer"), **classes}
    inits = list(_functions(name, classes))
    parameters = {one.arg: one for init in inits for one in (*init.args.args, *init.args.kwonlyargs)}
    if missing := sorted(LED - parameters.keys()):
        raise ValueError(f"{name} does not take {', '.join(missing)}, by which a trainer is led")
    config = ast.unparse(parameters["args"].annotation or ast.Constant(None)).strip("'\"").partition(" ")[0]
    if config not in classes:
        config = name.removesuffix("Trainer") + "Config"
    taken = Taken("reward_funcs" in parameters, config, dict(_fields(config, classes)))
    needed = _required(inits[0]) - LED - {"self", "reward_funcs"}
    needed |= {one for one in parameters if "teacher" in one or one in ("rollout_worker", "weight_transfer")}
    needed |= {one for one in taken.fields if one.startswith("teacher_") and one.endswith("_url")}
    if needed:
        raise ValueError(f"{name} works with {', '.join(sorted(needed))}, which a recipe cannot give it")
    if taken.rewards and (unknown := GROUPED - taken.fields.keys()):
        raise ValueError(
            f"{name} draws its answers otherwise than GRPO: it has no {', '.join(sorted(unknown))}"
        )
    return taken


def refuse(trainer: str) -> None:
    """Raise ValueError where a trainer is none of a policy, or reads rows that there are not."""
    name = trainer.rpartition(".")[2]
    if name in REFUSED:
        raise ValueError(f"{name} {REFUSED[name]}")


def check_fields(trainer: str, given: Mapping[str, object]) -> None:
    """Raise ValueError where TRL's config has no such field, or one of another type."""
    taken = taken_by(trainer)
    for name, value in given.items():
        if name in _settings():
            raise ValueError(
                f"args sets {name}, a field of transformers' trainer, "
                "but how it logs, saves, loads and evaluates is the run's"
            )
        if name not in taken.fields:
            near = get_close_matches(name, taken.fields, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise ValueError(f"{trainer.rpartition('.')[2]} has no setting {name}{hint}")
        updates = UPDATES.get(trainer.rpartition(".")[2], taken.fields.keys())
        if name not in updates:
            raise ValueError(
                f"args sets {name}, which is not given to {trainer.rpartition('.')[2]} here; "
                f"it takes {', '.join(sorted(updates))}"
            )
        if not _is(value, taken.fields[name]):
            raise ValueError(f"args: {name} is {value!r}, and is a {taken.fields[name]} in {taken.config}")
        known = _compared(trainer, name) if "str" in taken.fields[name] else frozenset()
        for one in value if isinstance(value, list) else [value]:
            if known and one not in known:
                raise ValueError(f"args: {name} is {one!r}; {taken.config} has {', '.join(sorted(known))}")


TYPES: Mapping[str, tuple[type, ...]] = {
    "None": (type(None),),
    "bool": (bool,),
    "dict": (dict,),
    "float": (float, int),
    "int": (int,),
    "list": (list,),
    "str": (str,),
}


def _is(value: object, annotation: str) -> bool:
    """Whether a value is of an annotated type, as far as its name says; of one that is not known it may be."""
    names = [one.strip().partition("[")[0] for one in annotation.split("|")]
    known = {type for name in names if name in TYPES for type in TYPES[name]}
    return bool(set(names) - TYPES.keys()) or (
        isinstance(value, tuple(known)) and (not isinstance(value, bool) or bool in known)
    )


@cache
def _compared(trainer: str, field: str) -> frozenset[str]:
    """Return the words with which a trainer and its config compare a field: those that it may be."""
    *folder, name = trainer.split(".")
    classes = {**_classes("trainer"), **_classes("/".join(folder) or "trainer")}
    config = taken_by(trainer).config
    whole = (*_line(name, classes), *_line(config, classes))
    refused = {
        compare
        for one in whole
        for found in ast.walk(one)
        if isinstance(found, ast.If) and isinstance(found.body[0], ast.Raise)
        for compare in ast.walk(found.test)
        if isinstance(compare, ast.Compare) and isinstance(compare.ops[0], ast.Eq | ast.In)
    }
    return frozenset(
        word.value
        for one in whole
        for found in ast.walk(one)
        if found not in refused
        and isinstance(found, ast.Compare)
        and ast.unparse(found.left).rpartition(".")[2] == field
        for word in ast.walk(found)
        if isinstance(word, ast.Constant) and isinstance(word.value, str)
    )


def _package(name: str) -> Path:
    spec = find_spec(name)  # of a top-level package, this imports nothing
    if spec is None or spec.origin is None:
        raise ValueError(f"{name} is not installed: pip install alignbench-trl")
    return Path(spec.origin).parent


def _version() -> str:
    from importlib.metadata import version

    return version("trl")


@cache
def _classes(folder: str) -> Mapping[str, ast.ClassDef]:
    """Return the classes of a folder of TRL by name."""
    return {
        one.name: one
        for file in sorted((_package("trl") / folder).glob("*.py"))
        for one in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(one, ast.ClassDef)
    }


@cache
def _settings() -> Mapping[str, str]:
    """Return the settings of transformers' trainer."""
    file = _package("transformers") / "training_args.py"
    found = ast.parse(file.read_text(encoding="utf-8")).body
    return dict(
        _fields("TrainingArguments", {one.name: one for one in found if isinstance(one, ast.ClassDef)})
    )


def _line(name: str, classes: Mapping[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    """Yield a class and what it inherits, as far as the source is here."""
    if name in classes:
        yield classes[name]
        for base in classes[name].bases:
            yield from _line(ast.unparse(base).rpartition(".")[2], classes)


def _functions(name: str, classes: Mapping[str, ast.ClassDef]) -> Iterator[ast.FunctionDef]:
    """Yield the `__init__` of a class, and of those it inherits from where it passes further arguments on."""
    for one in _line(name, classes):
        for found in one.body:
            if isinstance(found, ast.FunctionDef) and found.name == "__init__":
                yield found
                if found.args.kwarg is None:
                    return


def _required(init: ast.FunctionDef) -> set[str]:
    arguments = init.args.args
    return {one.arg for one in arguments[: len(arguments) - len(init.args.defaults)]}


def _fields(config: str, classes: Mapping[str, ast.ClassDef]) -> Iterator[tuple[str, str]]:
    """Yield the fields of a config with their annotations; those of the class itself come last."""
    for one in reversed(list(_line(config, classes))):
        for found in one.body:
            if isinstance(found, ast.AnnAssign) and isinstance(found.target, ast.Name):
                yield found.target.id, ast.unparse(found.annotation)
