"""What a report says of the sampling temperature."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from alignbench import report
from alignbench.report.decoding import described, reversal
from alignbench.report.html import write_html
from alignbench.report.leaderboard import leaderboard
from alignbench.report.verdicts import best
from alignbench.results import (
    Choice,
    Comparison,
    Costs,
    Decoding,
    Estimate,
    LabelResult,
    Measured,
    MetricInfo,
    Results,
    SettingResult,
    TuningScore,
    write,
)

REWARDS = {
    0.0: {"base": 0.5, "sft": 0.97, "dpo": 0.94, "rain": 0.89},
    1.0: {"base": 0.4, "sft": 0.64, "dpo": 0.72, "rain": 0.89},
}
STARTS = {"base": None, "sft": "base", "dpo": "sft", "rain": "sft"}


def compared(temperature: float, a: str, b: str) -> Comparison:
    gap = REWARDS[temperature][a] - REWARDS[temperature][b]
    verdict = "not told apart" if abs(gap) < 0.04 else "better" if gap > 0 else "worse"
    ends = (gap - 0.05, gap + 0.05)
    return Comparison(
        a=a, b=b, metric="reward", judge="gold", difference=gap, ci95=ends, p_holm=0.01, verdict=verdict
    )


def at(temperature: float) -> tuple[dict[str, Measured], tuple[Comparison, ...]]:
    values = {
        label: Measured(value=x, ci95=(x - 0.03, x + 0.03)) for label, x in REWARDS[temperature].items()
    }
    labels = list(values)
    pairs = tuple(compared(temperature, a, b) for i, a in enumerate(labels) for b in labels[i + 1 :])
    return values, pairs


@pytest.fixture
def run() -> Results:
    """Every label is best at 0 but for rain, which ignores the temperature; dpo and sft change places."""
    values, pairs = at(0.0)
    scores = tuple(TuningScore(temperature=one, score=Estimate(value=0.9 - one / 10)) for one in REWARDS)
    chosen = Choice(temperature=0.0, judge="gold", prompts=100, scores=scores)
    own = Choice(reason="its policy ignores the temperature")
    return Results(
        run="grid",
        metrics={"reward": MetricInfo(judge="gold", higher_is_better=True)},
        labels=tuple(
            LabelResult(
                label=label,
                start=start,
                sampling=own if label == "rain" else chosen,
                metrics={"reward": values[label]},
            )
            for label, start in STARTS.items()
        ),
        comparisons=pairs,
        settings=tuple(
            SettingResult(
                temperature=one,
                labels={label: {"reward": value} for label, value in at(one)[0].items()},
                comparisons=at(one)[1],
            )
            for one in REWARDS
        ),
    )


def terminal(run: Results) -> str:
    console = Console(file=io.StringIO(), width=150)
    report.show(run, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_verdict_says_where_two_labels_change_places(run: Results):
    rows = {row.name: row.verdict for row in leaderboard(run).rows}
    assert rows["dpo"] is not None
    assert rows["dpo"].short.endswith(", changes with T")
    found = "dpo minus sft is \N{MINUS SIGN}0.030 at 0 (not told apart) and +0.080 at 1."
    assert f"They change places between temperatures: {found}" in rows["dpo"].sentence
    assert rows["sft"] is not None
    assert "places" not in rows["sft"].sentence


def test_labels_that_change_places_are_listed_under_the_table_of_temperatures(run: Results):
    for shown in (terminal(run), report.markdown(run)):
        lines = [line.strip(" -") for line in shown.splitlines()]
        place = lines.index("Labels that change places between temperatures:")
        assert "sft minus dpo is +0.030 at 0 (not told apart) and \N{MINUS SIGN}0.080 at 1" in lines[place:]


def test_a_decoder_that_has_its_starts_own_answers_at_0_changes_no_places_there(run: Results):
    """The best of n equal answers is the answer of its start."""
    found = reversal(run, "dpo", "sft", "reward")
    assert found is not None
    assert set(found.by_temperature) == {0.0, 1.0}
    labels = tuple(
        label.model_copy(update={"decoding": Decoding(against="sft")}) if label.label == "dpo" else label
        for label in run.labels
    )
    of_two_kinds = run.model_copy(update={"labels": labels})
    assert reversal(of_two_kinds, "dpo", "sft", "reward") is not None, "its answers at 0 are its own"
    greedy, other = run.settings
    equal = greedy.model_copy(update={"labels": {**greedy.labels, "dpo": greedy.labels["sft"]}})
    assert (
        reversal(of_two_kinds.model_copy(update={"settings": (equal, other)}), "dpo", "sft", "reward") is None
    )


def test_labels_that_are_nowhere_told_apart_change_no_places(run: Results):
    def untold(one: SettingResult) -> SettingResult:
        pairs = (pair.model_copy(update={"verdict": "not told apart"}) for pair in one.comparisons)
        return one.model_copy(update={"comparisons": tuple(pairs)})

    doubted = run.model_copy(update={"settings": tuple(map(untold, run.settings))})
    assert reversal(run, "dpo", "sft", "reward") is not None
    assert reversal(doubted, "dpo", "sft", "reward") is None


def test_the_best_is_named_with_its_temperature_and_with_who_is_ahead_at_others(run: Results):
    found = best(run)
    assert found.startswith("sft has the best reward, 0.970 ±0.030 at temperature 0, ")
    assert "; at temperature 1 rain is ahead" in found


def test_every_temperature_stands_in_terminal_markdown_csv_and_html(run: Results, tmp_path: Path):
    for text in (terminal(run), report.markdown(run)):
        assert "by temperature" in text
        assert text.count("0.640 ±0.030") == 1, "sft at 1, which is not where it is ranked"
        assert "ignores the sampling temperature" in text
        ranked = "Each label is ranked at the temperature T that validation prompts choose: its own best where they"
        assert f"{ranked} tell it apart, else the one that is best for most labels." in " ".join(text.split())
    line = next(line for line in report.markdown(run).splitlines() if line.startswith("| rain |"))
    assert line.split(" | ")[2] == "own"
    numbers = [
        line for line in report.csv(run).splitlines() if line.startswith("grid,sft,") and ",reward," in line
    ]
    assert len(numbers) == 3, "where it is ranked, and each temperature"
    write(run, tmp_path)
    page = write_html(tmp_path).read_text(encoding="utf-8")
    assert "Quality against temperature" in page
    assert page.count("sampling temperature") >= 2
    assert "chosen on 100 validation prompts by gold" in page
    assert "dpo minus sft is" in page


def test_a_run_with_one_temperature_says_nothing_of_temperatures(results: Results, tmp_path: Path):
    assert "temperature" not in terminal(results)
    assert "| T |" not in report.markdown(results)
    write(results, tmp_path)
    assert "Quality against temperature" not in write_html(tmp_path).read_text(encoding="utf-8")


def test_numbers_that_were_chosen_on_the_same_prompts_are_said_to_be_too_high():
    assert "its numbers are too high" in described(
        Choice(temperature=0.7, judge="gold", prompts=9, same_prompts=True)
    )


def answering(run: Results, tokens: dict[str, float]) -> Results:
    """Return a run whose labels compute so many tokens for an answer; of the others that is not known."""

    def cost(one: LabelResult) -> Costs:
        own = one.cost.own.model_copy(update={"answer_tokens": tokens.get(one.label)})
        return one.cost.model_copy(update={"own": own})

    labels = tuple(one.model_copy(update={"cost": cost(one)}) for one in run.labels)
    return run.model_copy(update={"labels": labels})


def test_a_decoder_stands_beside_its_start_and_the_control_that_was_made_to_cost_as_much(run: Results):
    costs = Decoding(against="sft", cached_tokens=10.0)  # of an answer token: its answers are shorter
    alone = tuple(
        one.model_copy(update={"decoding": costs if one.label == "rain" else None}) for one in run.labels
    )
    known = answering(run.model_copy(update={"labels": alone}), {"sft": 400.0, "rain": 3120.0})
    rows = {row.name: row for row in leaderboard(known).rows}
    assert "no label answers at the same cost, 7.8 times that of sft" in rows["rain"].notes
    control = tuple(
        one.model_copy(update={"same_cost_as": "rain" if one.label == "dpo" else None}) for one in alone
    )
    rows = {row.name: row for row in leaderboard(run.model_copy(update={"labels": control})).rows}
    assert not [note for note in rows["rain"].notes if "cost" in note]
    found = {name: verdict for name in ("rain", "dpo") if (verdict := rows[name].verdict) is not None}
    assert "; cost not known, worse than dpo" in found["rain"].short
    assert "; cost not known, better than rain" in found["dpo"].short
    known = "The cost of an answer is not known: rain is worse than dpo by 0.050 in reward"
    assert known in found["rain"].sentence


@pytest.mark.parametrize(
    ("tokens", "rain", "dpo"),
    [
        ({"rain": 608.0, "dpo": 484.0}, "at 0.80 times its cost", "at 1.26 times its cost"),
        ({"rain": 500.0, "dpo": 460.0}, "at 0.92 times its cost", "at 1.09 times its cost"),
        ({"rain": 500.0, "dpo": 500.0}, "at 1.00 times its cost", "at 1.00 times its cost"),
        ({"rain": 608.0}, "cost not known,", "cost not known,"),
        ({"rain": 608.0, "dpo": 0.0}, "cost not known,", "cost not known,"),
    ],
)
def test_the_cost_of_a_control_stands_as_a_ratio_and_is_never_called_equal(run: Results, tokens, rain, dpo):
    control = tuple(
        one.model_copy(update={"same_cost_as": "rain" if one.label == "dpo" else None})
        for one in answering(run, tokens).labels
    )
    rows = {row.name: row for row in leaderboard(run.model_copy(update={"labels": control})).rows}
    found = {name: verdict for name in ("rain", "dpo") if (verdict := rows[name].verdict) is not None}
    assert f"; {rain} worse than dpo" in found["rain"].short
    assert f"; {dpo} better than rain" in found["dpo"].short
    assert not any("equal" in verdict.short or "same cost" in verdict.sentence for verdict in found.values())
    if rain.startswith("at"):
        assert f"At {rain.split()[1]} times the tokens of an answer rain is worse" in found["rain"].sentence
