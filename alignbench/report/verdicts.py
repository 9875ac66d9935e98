"""What the comparison says of two labels in words: better, worse, equivalent or not told apart, and what is best."""

from __future__ import annotations

from dataclasses import dataclass

from alignbench.report import decoding, text
from alignbench.report.metrics import agreement, headline, metric_infos, title, unfit
from alignbench.results import MIN_RATERS, Comparison, Estimand, LabelResult, Outcome, Results


@dataclass(frozen=True)
class Verdict:
    """How a label stands against its start, on the headline metric."""

    against: str
    outcome: Outcome | None
    short: str
    """For a table's cell."""
    sentence: str
    """For a reader."""
    policies: str = ""
    """What these trained policies alone show, where the verdict is on the method."""


def against_start(results: Results, label: LabelResult, metric: str) -> Verdict | None:
    """Return how `label` stands against its start, or against base where the start is not a label."""
    start = label.start if isinstance(label.start, str) else "base" if label.start else None
    if start is None or results.label(start) is None:
        return None
    if why := unfit(results, metric):
        return Verdict(start, None, "unfit judge", f"No verdict on {label.label}: {why}.")
    found = results.decisive(label.label, start, metric)
    if found is None or found.difference is None or found.verdict is None:
        why = found.missing if found and found.missing else "not compared"
        return Verdict(start, None, text.NOTHING, f"{label.label} could not be compared with {start}: {why}.")
    these = results.comparison(label.label, start, metric) if found.estimand == "method" else None
    turned = decoding.reversal(results, label.label, start, metric)
    short, sentence = _short(results, found), _sentence(results, found)
    if "near chance" in (agreed := agreement(results, metric)):
        short += ", by a judge near chance"
        sentence += f" {agreed[0].upper()}{agreed[1:]}."
    if turned is not None:
        short += ", changes with T"
        sentence += f" They change places between temperatures: {turned}."
    for control in same_cost(results, label):
        compared = results.decisive(label.label, control, metric)
        if compared is not None and compared.difference is not None and compared.verdict is not None:
            ratio = answer_cost_ratio(results, control, label.label)
            if ratio is None:
                short += f"; cost not known, {_short(results, compared)}"
                sentence += f" The cost of an answer is not known: {_sentence(results, compared)}"
            else:
                short += f"; at {ratio:.2f} times its cost {_short(results, compared)}"
                sentence += f" At {ratio:.2f} times the tokens of an answer {_sentence(results, compared)}"
    return Verdict(start, found.verdict, short, sentence, _policies(these))


def best(results: Results) -> str:
    """Return the one sentence that most readers come for: which label is best, and which are not told apart from it."""
    metric = headline(results)
    infos = metric_infos(results)
    if metric is None:
        return "No metric that ranks the labels was measured."
    if why := unfit(results, metric):
        return f"Nothing is ranked: {why}."
    sign = -1 if infos[metric].higher_is_better is False else 1
    known = {
        label.label: label.metrics[metric].decisive()
        for label in results.labels
        if metric in label.metrics and label.metrics[metric].value is not None
    }
    order = sorted(known, key=lambda name: -sign * (known[name].value or 0.0))
    first = order[0]
    seeds = sum(cell.status == "done" for cell in results.cells_of(first))
    at = decoding.temperature(results.label(first).sampling) if results.settings else ""  # pyright: ignore[reportOptionalMemberAccess]
    at = {"": "", decoding.OWN: " with its own decoding"}.get(at, f" at temperature {at}")
    sentence = (
        f"{first} has the best {title(metric)}, {text.estimate(known[first])}{at}, "
        f"{_scope(known[first].estimand, max(1, seeds), known[first].raters)}"
    )
    pairs = {name: results.decisive(first, name, metric) for name in order[1:]}
    found = {name: one for name, one in pairs.items() if one is not None and one.verdict is not None}
    alike = {name: _power(one) for name, one in found.items() if one.verdict == "not told apart"}
    same = [name for name, one in found.items() if one.verdict == "equivalent"]
    unknown = [name for name in pairs if name not in found]
    if alike:
        (power, *others), names = set(alike.values()), list(alike)
        if others:
            power, names = "", [name + of for name, of in alike.items()]
        sentence += f"; not told apart from it{power}: {text.listed(names)}"
    if ahead := [name for name, one in found.items() if one.verdict == "worse"]:
        sentence += f"; worse than {text.listed(ahead)} where the two are compared directly"
    if same:
        sentence += f"; equivalent within {text.number(found[same[0]].margin)}: {text.listed(same)}"
    if found and not unknown and all(one.verdict == "better" for one in found.values()):
        sentence += "; every other label is worse"
    if known[first].estimand == "method":
        these = [name for name, one in found.items() if one.estimand == "policies"]
        sentence += f"; compared with {text.listed(these)} for these policies only" if these else ""
    apart = [name for name, one in found.items() if _seeds(results, one).against is not None]
    sentence += f"; it shares no seed with {text.listed(apart)}: compared unpaired" if apart else ""
    if unknown:
        sentence += f"; it was not compared with {text.listed(unknown)}"
    sentence += decoding.best(results, metric, first, higher=sign > 0)
    survivors = [name for name in (first, *order[1:]) if _failed(results, name)]
    if survivors:
        sentence += f"; not all seeds of {text.listed(survivors)} finished"
    if agreed := agreement(results, metric):
        sentence += f"; {agreed}"
    return f"{sentence}."


def same_cost(results: Results, label: LabelResult) -> list[str]:
    """Return the labels whose answers were made to cost what this label's do, and the one that its own were."""
    own = [label.same_cost_as] if label.same_cost_as else []
    return own + [one.label for one in results.labels if one.same_cost_as == label.label]


def answer_cost_ratio(results: Results, label: str, other: str) -> float | None:
    """Return the tokens that `label` computes for an answer, over those of `other`; None where one is not known."""
    own, theirs = (
        found.cost.own.answer_tokens if (found := results.label(name)) else None for name in (label, other)
    )
    return own / theirs if own and theirs else None


def _short(results: Results, found: Comparison) -> str:
    assert found.difference is not None
    if found.verdict == "not told apart":
        phrase = f"not told apart from {found.b}{_power(found)}"
    elif found.verdict == "equivalent":
        phrase = f"equivalent to {found.b} within {text.number(found.margin)}"
    else:
        phrase = f"{found.verdict} than {found.b} {text.difference(found)}"
    seeds = _seeds(results, found)
    failed = any(_failed(results, label) for label in (found.a, found.b))
    if seeds.against is None:
        return (
            f"{phrase} ({len(seeds.of)} of {len(seeds.of) + len(seeds.missing)} seeds)" if failed else phrase
        )
    if not failed:
        return f"{phrase} (unpaired seeds)"
    counts = [
        f"{len(of)} of {len(results.cells_of(label))} seeds of {label}"
        for label, of in ((found.a, seeds.of), (found.b, seeds.against))
    ]
    return f"{phrase} ({text.listed(counts)}, unpaired)"


def _sentence(results: Results, found: Comparison) -> str:
    assert found.difference is not None
    proof = [_interval(found)] if found.ci95 else []
    if found.p_holm is not None:
        proof.append(f"p {text.probability(found.p_holm)} after Holm's correction")
    elif found.p_value is not None:
        proof.append(f"p {text.probability(found.p_value)}")
    if found.verdict == "equivalent" and found.p_equivalence is not None:
        proof.append(f"p {text.probability(found.p_equivalence)} for equivalence")
    bracket = f" ({', '.join(proof)})" if proof else ""
    metric, signed = title(found.metric), text.difference(found)
    if found.verdict == "not told apart":
        sentence = (
            f"{found.a} is not told apart from {found.b} on {metric}{_power(found)}: difference {signed}"
        )
    elif found.verdict == "equivalent":
        margin = text.number(found.margin)
        sentence = f"{found.a} is equivalent to {found.b} on {metric} within {margin}: difference {signed}"
    else:
        amount = text.number(abs(found.difference), text.places_of_difference(found))
        sentence = f"{found.a} is {found.verdict} than {found.b} by {amount} in {metric}"
    seeds = _seeds(results, found)
    left_out = f" Not compared: {'; '.join(seeds.missing)}." if seeds.missing else ""
    scope = _scope(found.estimand, len(seeds.of), found.raters)
    if seeds.against is not None:
        scope = _scope_unpaired(found, len(seeds.of), len(seeds.against))
    return f"{sentence}{bracket}, {scope}.{left_out}"


def _policies(found: Comparison | None) -> str:
    if found is None or found.difference is None or found.verdict is None:
        return ""
    interval = f" ({_interval(found)})" if found.ci95 else ""
    outcome = found.verdict
    return f"These policies alone: {text.difference(found)}{interval}, {outcome}."


def _power(found: Comparison) -> str:
    """What the run could have found: without it, "not told apart" would read as "equal"."""
    least = found.smallest_detectable
    if least is None:
        return ""
    return f" (could have seen {text.number(least, text.places_of(least, 2))})"


def _interval(found: Comparison) -> str:
    low, high = (text.number(bound, text.places_of_difference(found)) for bound in found.ci95 or (None, None))
    return f"95% interval {low} to {high}"


@dataclass(frozen=True)
class _Seeds:
    """What a comparison of two labels is based on."""

    of: list[int]
    """Seeds of a that were compared."""
    against: list[int] | None
    """Seeds of b, each compared with every one of a, where the two share none; None where seeds are paired."""
    missing: list[str]
    """Each other seed of the two labels, with the reason."""


def _seeds(results: Results, found: Comparison) -> _Seeds:
    cells = {one: {cell.seed: cell for cell in results.cells_of(one)} for one in (found.a, found.b)}
    done = {one: [seed for seed, cell in of.items() if cell.status == "done"] for one, of in cells.items()}
    shared = [seed for seed in done[found.a] if seed in done[found.b]]
    if found.against or not shared:
        compared = {
            found.a: list(found.seeds) or done[found.a],
            found.b: list(found.against) or done[found.b],
        }
        missing = [
            f"seed {seed} of {label} ({cell.status if cell.status != 'done' else f'no {title(found.metric)}'})"
            for label, of in cells.items()
            for seed, cell in sorted(of.items())
            if seed not in compared[label]
        ]
        return _Seeds(compared[found.a], compared[found.b] if cells[found.b] else None, missing)
    compared = list(found.seeds) or shared
    missing = []
    for seed in sorted({*cells[found.a], *cells[found.b]} - set(compared)):
        ours, theirs = (cells[one].get(seed) for one in (found.a, found.b))
        failed = [f"{cell.label} {cell.status}" for cell in (ours, theirs) if cell and cell.status != "done"]
        alone = next((cell.label for cell in (ours, theirs) if cell), "") if not (ours and theirs) else ""
        why = text.listed(failed) or (f"only {alone} has it" if alone else f"no {title(found.metric)}")
        missing.append(f"seed {seed} ({why})")
    return _Seeds(compared, None, missing)


def _scope(estimand: Estimand, seeds: int, raters: int | None) -> str:
    scope = f"for these policies only ({seeds} training run{'s' if seeds > 1 else ''})"
    if estimand == "method":
        scope = f"for the method, over {seeds} seeds"
    return f"{scope} {_of_raters(raters)}" if raters else scope


def _scope_unpaired(found: Comparison, seeds: int, against: int) -> str:
    what = "seed" if found.estimand == "method" else "training run"
    counts = f"{seeds} {what}{'s' if seeds > 1 else ''} of {found.a} and {against} of {found.b}, unpaired"
    scope = (
        f"for the method, over {counts}"
        if found.estimand == "method"
        else f"for these policies only ({counts})"
    )
    return f"{scope} {_of_raters(found.raters)}" if found.raters else scope


def _of_raters(count: int) -> str:
    if count >= MIN_RATERS:
        return f"and for other raters too ({count} asked)"
    return f"and for {'this one rater' if count == 1 else f'these {count} raters'} only"


def _failed(results: Results, label: str) -> bool:
    return any(cell.status != "done" for cell in results.cells_of(label))
