"""The environment of a run: recipe, files, libraries and plugins. A changed one is shown, and refused."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from alignbench import layout, plugins, store
from alignbench.engine import resources, tuning
from alignbench.errors import PluginError, Problem, RecipeError
from alignbench.models.arithmetic import Compute
from alignbench.recipe.graph import complete
from alignbench.recipe.plan import Plan
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import Loaded, Model, Recipe, canonical, texts
from alignbench.versions import versions


def compute(out: Path, model: Model, root: Path) -> Compute:
    """Return in which precision the run in `out` computes: as it began, on whatever machine it continues."""
    before = _before(out)
    return resources.compute(model, root) if before is None else before["compute"]


def record(
    out: Path,
    loaded: Loaded,
    plan: Plan,
    files: Mapping[str, str],
    *,
    compute: Compute,
    allow_env_change: bool = False,
) -> tuple[str, ...]:
    """Record what the run in `out` is made of, or compare with the record: return how environments differ.

    Raises RecipeError with every difference where recipe or files are others, or, unless it is allowed, the
    environment: nothing is ever overwritten by another experiment.
    """
    now, before = _now(plan, files), _before(out)
    if before is None:
        store.write_text(out / layout.RECIPE_TEXT, loaded.text)
        _write(out, now["files"], compute, [now["environment"]])
        store.write_text(out / layout.RECIPE, canonical(plan.recipe) + "\n")
        return ()
    changed = [*_differences(before["recipe"], now["recipe"]), *_differences(before["files"], now["files"])]
    if changed:
        what = f"{out} holds a run of another recipe than {loaded.path}, or of other files"
        raise _refusal(loaded, what, changed, "give --fork to start a new run next to it, or undo the change")
    environments = before["environments"]
    changed = list(_differences(environments[-1], now["environment"]))
    if changed and not allow_env_change:
        what = f"{out} was made in another environment"
        fix = "give --fork to start a new run, --allow-env-change to go on with a mixed result, or undo the change"
        raise _refusal(loaded, what, changed, fix)
    if changed:
        environments.append(now["environment"])
        _write(out, now["files"], compute, environments)
    first = environments[0]
    return tuple(dict.fromkeys(str(one) for other in environments[1:] for one in _differences(first, other)))


def _write(out: Path, files: Any, compute: Compute, environments: list[Any]) -> None:
    store.write_json(
        out / layout.ENVIRONMENT, {"files": files, "compute": compute, "environments": environments}
    )


def fork(out: Path, plan: Plan, root: Path) -> Path:
    """Return the first of `out`, `out-2`, `out-3`, ... that is free, or holds this very run."""
    now = _now(plan, files(plan, root))
    number, folder = 1, out
    while not _free_for(now, plan.recipe, folder):
        number += 1
        folder = out.with_name(f"{out.name}-{number}")
    return folder


def _free_for(now: dict[str, Any], recipe: Recipe, folder: Path) -> bool:
    """Return whether a folder holds nothing but a run of this recipe, if anything.

    A tuned run records the settings that its trials chose. Which they were of, the record of the trials says.
    """
    known = [(_before(folder), now)]
    if swept := tuning.labels(recipe):
        trials = resolve(tuning.expanded(recipe))
        known.append((_before(folder / layout.SWEEP), _now(trials, now["files"])))
    return all(before is None or _same(before, wanted, swept) for before, wanted in known)


def _same(before: Mapping[str, Any], now: Mapping[str, Any], swept: Iterable[str]) -> bool:
    def recipe(of: Mapping[str, Any]) -> dict[str, Any]:
        if of["recipe"]["sweep"] is None:
            return of["recipe"]
        methods = {
            label: {**block, "config": None} if label in swept else block
            for label, block in of["recipe"]["methods"].items()
        }
        return {**of["recipe"], "methods": methods}

    same = recipe(before) == recipe(now) and before["files"] == now["files"]
    return same and before["environments"] == [now["environment"]]


def write_origin(run: Path, root: Path) -> None:
    """Record where the recipe's relative paths start."""
    store.write_json(run / layout.ORIGIN, {"root": str(root.resolve())})


def origin(run: Path) -> Path:
    """Return where the recipe's relative paths start: the run's own folder where it is not recorded."""
    file = run / layout.ORIGIN
    return Path(json.loads(file.read_text(encoding="utf-8"))["root"]) if file.is_file() else run


def files(plan: Plan, root: Path) -> dict[str, str]:
    """Return a digest of every file, or folder, that the recipe names.

    Recorded judgments are not among them: they grow after the cells, and belong to the evaluation's key.
    """
    found = {}
    inputs = plan.recipe.model_dump(mode="json")
    inputs["evaluation"]["judges"] = [
        one.model_dump(mode="json")
        for one in plan.recipe.evaluation.judges
        if not plugins.load("judges", one.name).recorded
    ]
    models = set(_ids(inputs)) - {"sandbox"}  # a folder whose name is a word like any other
    for text in texts(inputs):
        path = root / Path(text).expanduser() if len(text) < 1024 and "\0" not in text else None
        if path is not None and ("/" in text or "." in text or text in models) and os.path.lexists(path):
            found[text] = store.path_digest(path)
    return found


def _ids(value: Any) -> Iterator[str]:
    """Yield the ids of all models in a value of JSON: of the base, and of judges and metrics."""
    if isinstance(value, Mapping):
        if isinstance(value.get("id"), str):
            yield value["id"]
        value = list(value.values())
    for item in value if isinstance(value, list) else ():
        yield from _ids(item)


def _now(plan: Plan, files: Mapping[str, str]) -> dict[str, Any]:
    sources = {name: f"{one}, source {one.digest[:12]}" for name, one in plan.sources.items()}
    return {
        "recipe": json.loads(canonical(plan.recipe)),
        "files": dict(files),
        "environment": {"versions": versions(), "plugins": sources},
    }


def _before(out: Path) -> dict[str, Any] | None:
    """Return what the run in `out` is made of; None where nothing has been made yet, not even its rows."""
    if not (out / layout.RECIPE).exists() or not (out / layout.ENVIRONMENT).exists():
        return None
    # A run that stopped at its data holds nothing to keep: it may start again with other rows.
    if not (out / layout.DATA / store.COMMIT).exists() and not (out / layout.CELLS).exists():
        return None
    recipe = _with_defaults((out / layout.RECIPE).read_text(encoding="utf-8"))
    known = json.loads((out / layout.ENVIRONMENT).read_text(encoding="utf-8"))
    return {"recipe": recipe, "compute": "float32", **known}  # before it was recorded, a CPU had no other


def _with_defaults(text: str) -> Any:
    """Return a recorded recipe, with the defaults of fields that were added since."""
    try:
        return json.loads(canonical(complete(Recipe.model_validate_json(text))))
    except (ValidationError, PluginError):
        return json.loads(text)


def _refusal(loaded: Loaded, what: str, changed: list[Difference], fix: str) -> RecipeError:
    return RecipeError(
        [Problem(what, fix, file=str(loaded.path)), *(Problem(one.text, field=one.field) for one in changed)]
    )


class Difference:
    """One field that is another than it was."""

    def __init__(self, field: str, old: Any, new: Any):
        self.field = field
        self.text = f"was {_short(old)}, is {_short(new)}"
        if isinstance(old, Mapping) and new is None:
            self.text = "is no longer there"
        if old is None and isinstance(new, Mapping):
            self.text = "is new"

    def __str__(self) -> str:
        return f"{self.field} {self.text}"


def _differences(old: Any, new: Any, field: str = "") -> Iterator[Difference]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in dict.fromkeys([*old, *new]):
            inside = f"{field}.{name}" if field else str(name)
            yield from _differences(old.get(name), new.get(name), inside)
    elif old != new:
        yield Difference(field, old, new)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
