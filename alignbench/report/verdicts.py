"""What the comparison says of two labels in words: better, worse, equivalent or not told apart, and what is best."""

from __future__ import annotations

from dataclasses import dataclass

from alignbench.report import decoding, text
from alignbench.report.metrics import headline, metric_infos, title, unfit
from alignbench.results import MIN_RATERS, Comparison, Estimand, Estimate, LabelResult, Outcome, Results

EQUAL = 1.1
"""Tokens of an answer that are at most as many times another label's are equal enough to say so."""


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
    if turned is not None:
        short += ", changes with T"
        sentence += f" They change places between temperatures: {turned}."
    for control in same_cost(results, label):
        compared = results.decisive(label.label, control, metric)
        if compared is not None and compared.difference is not None and compared.verdict is not None:
            ratio = _cost_ratio(results, control, label)
            cost = "equal cost" if ratio is None else f"{ratio:.2f} times its cost"
            short += f"; at {cost} {_short(results, compared)}"
            of = (
                "the same cost of an answer"
                if ratio is None
                else f"{ratio:.2f} times the tokens of an answer"
            )
            sentence += f" At {of} {_sentence(results, compared)}"
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
    alike = {name: _power(one) for name, one in found.items() if one.verdict == "not distinguishable"}
    same = [name for name, one in found.items() if one.verdict == "equivalent"]
    unknown = [name for name in pairs if name not in found]
    if alike:
        (power, *others), names = set(alike.values()), list(alike)
        if others:
            power, names = "", [name + of for name, of in alike.items()]
        sentence += f"; not told apart from it{power}: {text.listed(names)}"
    if same:
        sentence += f"; equivalent within {text.number(found[same[0]].margin)}: {text.listed(same)}"
    if found and not unknown and all(one.verdict == "better" for one in found.values()):
        sentence += "; every other label is worse"
    if known[first].estimand == "method":
        these = [name for name, one in found.items() if one.estimand == "policies"]
        sentence += f"; compared with {text.listed(these)} for these policies only" if these else ""
    if unknown:
        sentence += f"; it was not compared with {text.listed(unknown)}"
    sentence += decoding.best(results, metric, first, higher=sign > 0)
    survivors = [name for name in (first, *order[1:]) if _failed(results, name)]
    if survivors:
        sentence += f"; not all seeds of {text.listed(survivors)} finished"
    return f"{sentence}."


def same_cost(results: Results, label: LabelResult) -> list[str]:
    """Return the labels whose answers were made to cost what this label's do, and the one that its own were."""
    own = [label.same_cost_as] if label.same_cost_as else []
    return own + [one.label for one in results.labels if one.same_cost_as == label.label]


def _cost_ratio(results: Results, control: str, label: LabelResult) -> float | None:
    """Return how many times the tokens of an answer `control` computes; None where that is equal enough."""
    other = results.label(control)
    ours, theirs = label.cost.own.answer_tokens, other.cost.own.answer_tokens if other else None
    ratio = theirs / ours if ours and theirs else 1.0
    return None if 1 / EQUAL <= ratio <= EQUAL else ratio


def _short(results: Results, found: Comparison) -> str:
    assert found.difference is not None
    if found.verdict == "not distinguishable":
        phrase = f"not told apart from {found.b}{_power(found)}"
    elif found.verdict == "equivalent":
        phrase = f"equivalent to {found.b} within {text.number(found.margin)}"
    else:
        phrase = f"{found.verdict} than {found.b} {text.signed(found.difference, _places(found))}"
    seeds, missing = _seeds(results, found)
    if not any(_failed(results, label) for label in (found.a, found.b)):
        return phrase
    return f"{phrase} ({len(seeds)} of {len(seeds) + len(missing)} seeds)"


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
    metric, signed = title(found.metric), text.signed(found.difference, _places(found))
    if found.verdict == "not distinguishable":
        sentence = (
            f"{found.a} is not told apart from {found.b} on {metric}{_power(found)}: difference {signed}"
        )
    elif found.verdict == "equivalent":
        margin = text.number(found.margin)
        sentence = f"{found.a} is equivalent to {found.b} on {metric} within {margin}: difference {signed}"
    else:
        amount = text.number(abs(found.difference), _places(found))
        sentence = f"{found.a} is {found.verdict} than {found.b} by {amount} in {metric}"
    seeds, missing = _seeds(results, found)
    left_out = f" Not compared: {'; '.join(missing)}." if missing else ""
    return f"{sentence}{bracket}, {_scope(found.estimand, len(seeds), found.raters)}.{left_out}"


def _policies(found: Comparison | None) -> str:
    if found is None or found.difference is None or found.verdict is None:
        return ""
    interval = f" ({_interval(found)})" if found.ci95 else ""
    outcome = "not told apart" if found.verdict == "not distinguishable" else found.verdict
    return f"These policies alone: {text.signed(found.difference, _places(found))}{interval}, {outcome}."


def _power(found: Comparison) -> str:
    """What the run could have found: without it, "not told apart" would read as "equal"."""
    least = found.smallest_detectable
    if least is None:
        return ""
    return f" (could have seen {text.number(least, text.places_of(least, 2))})"


def _places(found: Comparison) -> int:
    return text.decimals([Estimate(value=found.difference, ci95=found.ci95)])


def _interval(found: Comparison) -> str:
    low, high = (text.number(bound, _places(found)) for bound in found.ci95 or (None, None))
    return f"95% interval {low} to {high}"


def _seeds(results: Results, found: Comparison) -> tuple[list[int], list[str]]:
    """Return the seeds that were compared, and each other seed of the two labels with the reason."""
    cells = {one: {cell.seed: cell for cell in results.cells_of(one)} for one in (found.a, found.b)}
    done = {one: [seed for seed, cell in of.items() if cell.status == "done"] for one, of in cells.items()}
    shared = [seed for seed in done[found.a] if seed in done[found.b]]
    if not shared:  # each label with seeds of its own
        return done[found.a], []
    compared = list(found.seeds) or shared
    missing = []
    for seed in sorted({*cells[found.a], *cells[found.b]} - set(compared)):
        ours, theirs = (cells[one].get(seed) for one in (found.a, found.b))
        failed = [f"{cell.label} {cell.status}" for cell in (ours, theirs) if cell and cell.status != "done"]
        alone = next((cell.label for cell in (ours, theirs) if cell), "") if not (ours and theirs) else ""
        why = text.listed(failed) or (f"only {alone} has it" if alone else f"no {title(found.metric)}")
        missing.append(f"seed {seed} ({why})")
    return compared, missing


def _scope(estimand: Estimand, seeds: int, raters: int | None) -> str:
    scope = f"for these policies only ({seeds} training run{'s' if seeds > 1 else ''})"
    if estimand == "method":
        scope = f"for the method, over {seeds} seeds"
    return f"{scope} {_of_raters(raters)}" if raters else scope


def _of_raters(count: int) -> str:
    if count >= MIN_RATERS:
        return f"and for other raters too ({count} asked)"
    return f"and for {'this one rater' if count == 1 else f'these {count} raters'} only"


def _failed(results: Results, label: str) -> bool:
    return any(cell.status != "done" for cell in results.cells_of(label))
