"""How the parts of a recipe hang together: what each label needs, builds on and learns from, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from alignbench import plugins
from alignbench.api.config import AdapterLabel, Label, Labelling, Named, NamedJudge
from alignbench.errors import RecipeError
from alignbench.recipe.configs import build
from alignbench.recipe.schema import BASE, COMPARISONS, FILE, START, MethodBlock, Recipe, Relabelled


def complete(recipe: Recipe) -> Recipe:
    """Return the recipe with the defaults of every plugin it names written out."""

    def fields(group: plugins.Group, name: str, given: dict[str, Any]) -> dict[str, Any]:
        return build(group, name, given)[1].model_dump(mode="json")

    def named(group: plugins.Group, one: Named | None) -> Named | None:
        if one is None or (group == "data" and one.name not in plugins.installed("data")):
            return one
        return Named(name=one.name, config=fields(group, one.name, one.config))

    data, evaluation = recipe.data, recipe.evaluation
    sources = {
        name: named("data", getattr(data, name)) for name in ("train", "validation", "test", "pretraining")
    }
    filters = [named("filters", one) for one in data.filters]
    source = data.source
    if isinstance(source, Relabelled):
        judge = fields("judges", source.judge.name, source.judge.config)
        spelled = NamedJudge(name=source.judge.name, config=judge)
        source = source.model_copy(update={"judge": spelled})
    measures = {
        name: [named(name, one) for one in getattr(evaluation, name)] for name in ("judges", "metrics")
    }
    methods = {
        label: block.model_copy(update={"config": fields("methods", block.method, block.config)})
        for label, block in recipe.methods.items()
    }
    return recipe.model_copy(
        update={
            "data": data.model_copy(update={**sources, "filters": filters, "source": source}),
            "methods": methods,
            "evaluation": evaluation.model_copy(update=measures),
        }
    )


def by_principles(value: Any, route: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], NamedJudge]]:
    """Yield every judge that a config lets label by a constitution, and where in it."""
    if not isinstance(value, BaseModel) or isinstance(value, Named):
        return
    own = {name: getattr(value, name) for name in type(value).model_fields}
    drawn = any(isinstance(one, Labelling) and one.constitution is not None for one in own.values())
    for name, one in own.items():
        if drawn and isinstance(one, NamedJudge):
            yield (*route, name), one
        yield from by_principles(one, (*route, name))


def tuning_judge(judge: Named) -> Named:
    """Return the judge that chooses the settings that `judge` reports on."""
    kind, config = build("judges", judge.name, judge.config)
    changes = kind.tuning_judge(config)
    return Named(name=judge.name, config={**judge.config, **changes})


def reserved(recipe: Recipe, judges: Iterable[Named]) -> float:
    """Return the share of the training rows that judges are trained on, and that no method sees.

    `judges`: those that the labels learn from.
    """
    own = recipe.evaluation.judges
    chooses = recipe.sweep is not None or (
        recipe.evaluation.chooses and recipe.evaluation.split != "validation"
    )
    tuning = [tuning_judge(one) for one in own] if chooses else []
    built = [build("judges", one.name, one.config) for one in (*own, *tuning, *judges)]
    return max((kind(config).held_out for kind, config in built), default=0.0)


def relabelled(recipe: Recipe, label: str) -> Relabelled | None:
    """Return how the comparisons that a label learns from are made; None: those of the file.

    The policy that answers comes before its answers: it, and the labels it needs, read the file's.
    """
    source = recipe.data.source
    if source == FILE or not compares(recipe, label) or label in _writers(recipe, source):
        return None
    return source


def compares(recipe: Recipe, label: str) -> bool:
    """Return whether a label learns from comparisons."""
    kind = plugins.load("methods", recipe.methods[label].method)
    return bool(set(kind.consumes) & set(COMPARISONS))


def _writers(recipe: Recipe, source: Relabelled) -> set[str]:
    """The label that answers in `data.source`, and all that must be finished before it."""
    found: set[str] = set()
    queue = [source.policy] if source.policy in recipe.methods and source.policy != START else []
    while queue:
        found.add(label := queue.pop())
        queue += [one for one in _needs(recipe.methods[label]) if one not in found]
    return found


def overlap(recipe: Recipe, judge: Named, *, allowed: bool = False) -> tuple[str, ...]:
    """Return the evaluation's judges that are `judge`, read with the same model, or are it with other fields.

    Other fields make another judge only where they name another model, or other rows that it is trained on. Those that
    `evaluation.allow` names are left out, or with `allowed` are the only ones. Raises PluginError where a judge is not
    installed, ValidationError where its config is wrong.
    """

    def reads(one: Named) -> tuple[Any, str, float]:
        kind, config = build("judges", one.name, one.config)
        return (
            plugins.find("judges", one.name),
            kind.reads_with(config, recipe.model.id),
            kind(config).held_out,
        )

    same, model, rows = reads(judge)
    found = []
    for one in recipe.evaluation.judges:
        other, others_model, others_rows = reads(one)
        alike = model == others_model if model or others_model else (other, others_rows) == (same, rows)
        if alike and (one.name in recipe.evaluation.allow) == allowed:
            found.append(one.name)
    return tuple(found)


def edges(recipe: Recipe) -> dict[str, tuple[str, ...]]:
    """Return for each label the labels that must be finished first.

    They are its start, those its fields name, and the one that writes the comparisons it learns from.
    """
    found = {}
    for label, block in recipe.methods.items():
        comparisons = relabelled(recipe, label)
        writer = () if comparisons is None else (comparisons.policy,)
        writer = () if writer in ((START,), (BASE,)) else writer
        found[label] = tuple(dict.fromkeys((*_needs(block), *writer)))
    return found


def _needs(block: MethodBlock) -> tuple[str, ...]:
    config = plugins.load("methods", block.method).Config
    starts = (block.start,) if isinstance(block.start, str) else ()
    named = (label for _, label in labels_named(config, block.config))
    return tuple(label for label in dict.fromkeys((*starts, *named)) if label != BASE)


def labels_named(config: type[BaseModel], values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (field, label) for every field of type `Label`, `AdapterLabel`, a list of them or an optional one."""
    for name, field in config.model_fields.items():
        if name in values and _holds(field.rebuild_annotation(), Label, AdapterLabel):
            value = values[name]
            for label in value if isinstance(value, list) else [value]:
                if isinstance(label, str):
                    yield name, label


def reads_weights(config: type[BaseModel], field: str) -> bool:
    """Return whether a field names labels whose weights are read, which a decoder has not."""
    return field in config.model_fields and _holds(
        config.model_fields[field].rebuild_annotation(), AdapterLabel
    )


def _holds(kind: Any, *wanted: Any) -> bool:
    if kind in wanted:
        return True
    inside = get_origin(kind) in (Union, UnionType, list, tuple, Annotated)
    return inside and any(_holds(part, *wanted) for part in get_args(kind))


def order(needs: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return the labels in start order, and in the recipe's order where starts leave a choice."""
    if circle := find_circle(needs):
        raise RecipeError(f"{' -> '.join(circle)} is a circle", "let one of them start from base")
    done: dict[str, None] = {}

    def visit(label: str) -> None:
        for parent in needs[label]:
            if parent not in done:
                visit(parent)
        done[label] = None

    for label in needs:
        if label not in done:
            visit(label)
    return tuple(done)


def find_circle(needs: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """Return labels that need each other in a circle, the first one again at the end; () where none do."""
    clear: set[str] = set()

    def walk(label: str, way: tuple[str, ...]) -> tuple[str, ...]:
        if label in way:
            return (*way[way.index(label) :], label)
        if label not in clear:
            for parent in needs.get(label, ()):
                if circle := walk(parent, (*way, label)):
                    return circle
            clear.add(label)
        return ()

    return next((circle for label in needs if (circle := walk(label, ()))), ())
