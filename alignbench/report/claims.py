"""The page of the tested claims: a forest plot of all parts, the verdicts, then each claim with its numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import escape

from alignbench.commands.claims.looks import State
from alignbench.commands.claims.records import Records
from alignbench.commands.claims.registry import Claim, Procedure, Registry
from alignbench.commands.claims.verdicts import DECIDED, Found, kept, p_values, summary
from alignbench.recipe import yaml
from alignbench.recipe.load import load

NOTES, PROCEDURE = "notes.yaml", "procedure"
"""The file of what was learnt after the first seeds, by claim, and its entry about how verdicts come about."""
EDGE = 4.0
"""Effects in units of d beyond which the forest plot shows an arrow."""
NO_EFFECT = "no effect larger than d"
_SOURCE = re.compile(r'plugins\.\S+ \S+ was "(.+), source (\w+)", is "\1, source (\w+)"')
"""How a record says that the source of a distribution changed, once for each of its plugins."""
_COLOURS = {
    "reproduced": "#1a7f37",
    "contradicted": "#cf222e",
    "no effect": "#0969da",
    "undecided": "#8c6d1f",
}
_ROW, _TOP, _LEFT, _WIDTH, _RIGHT = 18, 46, 400, 420, 220


def page(
    registry: Registry,
    known: Mapping[str, list[Found]],
    again: Mapping[tuple[str, int], Found],
    *,
    state: State | None = None,
    records: Records | None = None,
    sandbox: str,
    figure: str,
    quick: bool = False,
    later: Sequence[tuple[Registry, Mapping[str, list[Found]]]] = (),
) -> tuple[str, str]:
    """Return docs/claims.md and its figure, an SVG file of the name `figure`.

    `known`: what is known of each part, by claim; `again`: what the replication says of a part, by its place; `state`
    and `records`: how far the looks are, and how the runs on record were made; `later`: the registries that ask some of
    the claims again, in their order, with what is known of their parts.
    """
    claims, procedure = registry.claims, registry.procedure
    found = {name: known.get(name, [Found(part) for part in claim.parts]) for name, claim in claims.items()}
    summaries = {name: summary(claim, found[name]) for name, claim in claims.items()}
    every = [one for ones in found.values() for one in ones]
    words = Counter(one.word for one in every)
    small = sum(one.small for one in every)
    cannot = [name for name, claim in claims.items() if claim.cannot]
    counts = [f"{count} {NO_EFFECT if word == 'no effect' else word}" for word, count in words.items()]
    noted = _notes(registry.folder).get(PROCEDURE, "")
    decided = {name for name, ones in found.items() if _all_decided(ones)}
    lines = [
        f"# {registry.title}",
        "",
        *([" ".join(registry.about.split()), ""] if registry.about else []),
        "Written by `alignbench claims`. Each claim has a recipe and parts, each part a measure, a sign and the",
        "smallest effect d that counts. They are registered before the first seed, and a change after it is refused.",
        "A verdict is about the *method*, with seeds and prompts as samples; it says nothing of larger models.",
        "",
        f"Sandbox {sandbox[:16]}. Registry `{registry.digest}`.",
        "",
        f"{len(decided)} of {len(claims)} claims are decided in all parts by runs"
        + (f"; what runs of the sandbox cannot show is declared: {', '.join(cannot)}" if cannot else "")
        + f". Parts: {', '.join(counts)}."
        + (
            f" {small} of the effects with a direction {'are' if small > 1 else 'is'} smaller than d."
            if small
            else ""
        )
        + (
            f" With what [later registries](#asked-again) ask, {_decided_by_all(found, later)} are."
            if later
            else ""
        ),
        *_under_way(state, found),
        *(["", "Written with `--quick`: one seed and 100 prompts, which give no verdict."] if quick else []),
        "",
        f"![Every part of every claim: its effect in units of d with its interval, and its verdict]({figure})",
        "",
        "An effect is shown in units of the part's d, so that the grey band holds for all: an interval inside it",
        "shows an effect smaller than d, be it told apart from 0 or not. The claim's own direction is on the right.",
        "Of a part that says *within d of 0* any distance is on the left; of *not below -d* the axis is at -d. An",
        "arrow leads beyond the plot.",
        "",
        "| | claim | verdict |",
        "|---|---|---|",
        *(
            f"| [{name}](#{name.lower()}) | {claim.says} | {summaries[name]} |"
            for name, claim in claims.items()
        ),
        "",
        *_procedure(procedure),
        "",
        *(
            [f"Noted after the first seeds, and not registered: {' '.join(noted.split())}", ""]
            if noted
            else []
        ),
        *_replication(found, again, procedure.replication.error),
        *(_asked_again(found, later) if later else []),
    ]
    for name, claim in claims.items():
        lines += ["", *_claim(registry, name, claim, found[name], summaries[name])]
    lines += _made(records) if records is not None else []
    return "\n".join(lines) + "\n", forest(found)


def _procedure(one: Procedure) -> list[str]:
    last = one.seeds(one.looks[-1])
    looks = ", ".join(map(str, one.looks[:-1])) + f" and {one.looks[-1]}"
    return [
        "## How a verdict comes about",
        "",
        "| verdict | means |",
        "|---|---|",
        "| reproduced | the truth lies where the part says, such as above 0 |",
        "| contradicted | it lies on the other side |",
        f"| {NO_EFFECT} | it lies within d of 0, by two one-sided tests |",
        "| undecided | not enough data for any of these; the seeds or the rows that would decide it are given |",
        "| the sandbox cannot show it | declared in the registry, with the reason |",
        "",
        f"Seeds {last[0]} to {last[-1]}; interim analyses (looks) at {looks} seeds. A part that is decided keeps its",
        "verdict, and a claim stops when all its parts are decided.",
        f"Each look has an error of {one.level:g}, together {one.error:g}:",
        "the expected share of false verdicts, by Benjamini and Hochberg's correction over the parts of all claims,",
        "where a direction counts both sides. `benchmarks/proofs/claims.py` simulates the looks and the correction,",
        "also with a label three times less stable than those it is pooled with. p is that of the test that decides a",
        "part, uncorrected. Below .05 it has the heavier tail of that part's own seeds: the pool is too small for an",
        "unstable label. The interval of 95 % is of one part by itself, and knows of no looks.",
        "A seed at which a label of a part diverged is left out and counted, and one that failed runs again; a part",
        f"with over {one.most_diverged:.0%} such seeds stays undecided. The seeds or rows that an undecided part",
        "needs decide it in 80 % of all cases if the truth is what was found, at the p that decides one part more.",
        "",
        "Labels of one run are compared with the variance between seeds that is pooled over those of its labels that",
        "vary alike ([metrics](metrics.md)), labels of two runs with their own. All seeds read the same training rows,",
        "and are measured on the same prompts, those of the replication too: they are a sample of trainings and",
        "answers, not of data. A row of the tables is what the metric samples: a prompt, of which those of one",
        "conversation are one, a held-out pair, a question or a sum.",
    ]


def _under_way(state: State | None, found: Mapping[str, Sequence[Found]]) -> list[str]:
    """How far the looks are, and from which p value on a part is decided."""
    if state is None or state.threshold < 0:
        return []
    every = [one for ones in found.values() for one in ones]
    asked = sum(one.evidence.estimate is not None for one in every)
    line = f"{asked} of {len(every)} parts have numbers. p up to {state.threshold:.2g} decides a part of the last look."
    if state.look is not None:
        waiting = [
            f"{name}.{place}"
            for name, ones in found.items()
            for place, one in enumerate(ones, start=1)
            if one.word not in DECIDED and one.look != state.look
        ]
        line += f" Without numbers of {state.look} seeds yet: {', '.join(waiting)}."
    return ["", line]


def _made(records: Records) -> list[str]:
    """When and with what the runs on record were made."""
    rows = [
        f"| {look} | {name} | {str(made['started'])[:10]} | {made['platform']}, {made['device']} "
        f"| {_versions(made['versions'])} | {_mixed(made['mixed'] or ())} |"
        for look, runs in sorted(
            records.made.items(), key=lambda made: (not made[0][0].isdigit(), len(made[0]), made[0])
        )
        for name, made in sorted(runs.items())
    ]
    if not rows:
        return []
    return [
        "",
        "## Runs",
        "",
        "A run is mixed where the code changed within it or since the look before. A look on another machine trains",
        "the seeds of earlier looks again.",
        "",
        "| look | run | started | machine | versions | mixed |",
        "|---|---|---|---|---|---|",
        *rows,
    ]


def _mixed(changes: Sequence[str]) -> str:
    """Return what changed within a run: all plugins of a distribution have its source in common."""
    sources: dict[str, list[str]] = {}
    others = []
    for change in changes:
        if found := _SOURCE.fullmatch(change):
            distribution, old, new = found.groups()
            known = sources.setdefault(distribution, [old])
            known += [new] if new not in known else []
        else:
            others.append(change)
    same = [f"source of {name}: {', then '.join(known)}" for name, known in sources.items()]
    return "; ".join([*same, *others]) or "no"


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def _replication(
    found: Mapping[str, list[Found]], again: Mapping[tuple[str, int], Found], error: float
) -> list[str]:
    decided = [
        (name, place) for name, ones in found.items() for place, one in enumerate(ones) if one.word in DECIDED
    ]
    ran = {at: one for at, one in again.items() if one.evidence.estimate is not None}
    lines = ["## Replication", ""]
    if not ran:
        return [
            *lines,
            "Not run yet: `alignbench claims --replicate` runs the decided parts on seeds of no look.",
        ]
    rows, signs, words, sided = [], 0, 0, 0
    lost: list[str] = []
    turned: list[str] = []
    for name, place in (at for at in decided if at in ran):
        first, second = found[name][place], ran[name, place]
        one, two = (each.evidence.estimate for each in (first, second))
        assert one is not None
        assert two is not None
        if first.part.sign in "+-" and first.word != "no effect":
            sided += 1
            signs += (one.value > 0) == (two.value > 0)
        words += kept(first, second)
        if second.word not in DECIDED:
            lost.append(f"{name}.{place + 1}")
        elif not kept(first, second):
            turned.append(f"{name}.{place + 1}")
        low, high = two.interval()
        rows.append(
            f"| {name}.{place + 1} | {_number(one.value)} | {first.verdict} | {_number(two.value)} "
            f"| {_number(low)} to {_number(high)} | {second.verdict} |"
        )
    missing = [f"{name}.{place + 1}" for name, place in decided if (name, place) not in ran]
    return [
        *lines,
        f"{len(rows)} of {len(decided)} decided parts have run again: {words} of these keep their verdict, by tests",
        f"at {error:g} for each part, and {signs} of {sided} that were found above or below 0 keep their sign.",
        *([f"Without a number: {', '.join(missing)}."] if missing else []),
        *([f"Undecided now: {', '.join(lost)}."] if lost else []),
        *([f"Decided otherwise: {', '.join(turned)}."] if turned else []),
        "",
        "| part | found | verdict | again | 95% interval | verdict |",
        "|---|---:|---|---:|---|---|",
        *rows,
    ]


def _asked_again(
    found: Mapping[str, list[Found]], later: Sequence[tuple[Registry, Mapping[str, list[Found]]]]
) -> list[str]:
    """The claims that later registries ask again: what they say of each, and how many are decided by all together."""
    lines = [
        "",
        "## Asked again",
        "",
        "Registered later, on seeds of their own. A claim counts by the parts that were asked last; a part that was",
        "asked again with more seeds or rows takes the place of the earlier one. So counted,",
        f"{_decided_by_all(found, later)} of {len(found)} are decided in all parts by runs. Each registry keeps its",
        "own share of false verdicts below its error; a part that is asked again has another chance of a false one.",
    ]
    for registry, known in later:
        page = f"{registry.name}.md"
        lines += [
            "",
            f"[{registry.title}]({page}), on seeds {registry.procedure.first_seed} and on:",
            "",
            "| | claim | what is asked | verdict |",
            "|---|---|---|---|",
            *(
                f"| [{name}]({page}#{name.lower()}) | {claim.says} | {claim.asked.strip()} "
                f"| {summary(claim, _of(known, name, claim))} |"
                for name, claim in registry.claims.items()
                if name in found
            ),
        ]
    return lines


def _decided_by_all(
    found: Mapping[str, list[Found]], later: Sequence[tuple[Registry, Mapping[str, list[Found]]]]
) -> int:
    """How many claims are decided in all the parts that were asked last."""
    last = {name: list(ones) for name, ones in found.items()}
    for registry, known in later:
        for name, claim in registry.askable.items():
            if name not in last:
                continue
            new = _of(known, name, claim)
            if all(part.again is None for part in claim.parts):
                last[name] = list(new)
            for part, one in zip(claim.parts, new, strict=True):
                if part.again is not None:
                    last[name][part.again - 1] = one
    return sum(map(_all_decided, last.values()))


def _of(known: Mapping[str, list[Found]], name: str, claim: Claim) -> list[Found]:
    return known.get(name) or [Found(part) for part in claim.parts]


def _all_decided(parts: Sequence[Found]) -> bool:
    return bool(parts) and all(one.word in DECIDED for one in parts)


def _claim(registry: Registry, name: str, claim: Claim, found: Sequence[Found], conclusion: str) -> list[str]:
    lines = [
        f"## {name}",
        "",
        f"{claim.says} ({claim.source})",
        "",
        f"**{conclusion[0].upper()}{conclusion[1:]}.**",
    ]
    note = _notes(registry.folder).get(name)
    noted = [f"Noted after its first seeds, and not registered: {' '.join(note.split())}"] if note else []
    if claim.cannot:
        lines[-1] = f"**{conclusion[0].upper()}{conclusion[1:]}**: {claim.cannot.strip().rstrip('.')}."
        return [*lines, *(["", *noted] if noted else [])]
    lines += [
        "",
        "| | part | reproduced if | contradicted if | d | found | 95% interval | p | seeds x rows | verdict |",
        "|---:|---|---|---|---:|---:|---|---:|---:|---|",
        *(_row(place, one) for place, one in enumerate(found, start=1)),
        "",
    ]
    if claim.asked:
        lines += [f"Tested here: {claim.asked.strip()}", ""]
    lines += [*noted, ""] if noted else []
    of = f"`recipes/{'/'.join(registry.name.split('-', 1))}/{claim.recipe}`"
    of += f", variants {', '.join(claim.variants)}" if claim.variants else ""
    lines.append(
        f"Recipe: {of}; {_evaluation(registry.folder / claim.recipe)}. "
        f"Confounder: {claim.confounder.strip() or 'none known'}"
    )
    return lines


def _notes(folder: Path) -> dict[str, str]:
    """What was learnt of a claim after it was registered: it explains a verdict, and changes none."""
    file = folder / NOTES
    return yaml.read(file)[1].data if file.exists() else {}


def _evaluation(recipe: Path) -> str:
    """Prompts and decoding, as the recipe has them."""
    asked = load(recipe).recipe.evaluation
    at = ", ".join(f"{one:g}" for one in asked.sampling.temperature)
    return f"{asked.prompts} prompts, temperature {at}, {asked.sampling.max_new_tokens} tokens at most"


def _row(place: int, one: Found) -> str:
    part, estimate = one.part, one.evidence.estimate
    value, between, p, size = "", one.note, "", ""
    if estimate is None and one.evidence.value is not None:
        value = _number(one.evidence.value)
    if estimate is not None:
        low, high = estimate.interval()
        value, between = _number(estimate.value), f"{_number(low)} to {_number(high)}"
        between += f" ({one.note})" if one.note else ""
        p, size = f"{p_values(part, estimate).smallest:.2g}", f"{estimate.seeds} x {estimate.prompts}"
    word = one.verdict
    if one.needs is not None:
        word += f": needs {_needs(one)}"
    cells = (
        f"{part.says}: `{part.what}`",
        part.reproduced_if,
        part.contradicted_if,
        f"{part.d:g}",
        value,
        between,
        p,
        size,
        word,
    )
    return f"| {place} | {' | '.join(cells)} |"


def _needs(one: Found) -> str:
    assert one.needs is not None
    seeds, prompts = one.needs
    ways = [
        *([f"{seeds} seeds"] if seeds is not None else []),
        *([f"{prompts:,} rows"] if prompts is not None else []),
    ]
    return " or ".join(ways) or "more of both"


def _number(value: float) -> str:
    return f"{value:+.3g}" if value else "0"


def forest(found: Mapping[str, Sequence[Found]]) -> str:
    """Return the forest plot of all parts as an SVG file, light and dark: effects in units of d."""
    rows = [
        (f"{name}.{place}", one) for name, ones in found.items() for place, one in enumerate(ones, start=1)
    ]
    height, width = _TOP + _ROW * len(rows) + 34, _LEFT + _WIDTH + _RIGHT
    bottom = _TOP + _ROW * len(rows)

    def x(effect: float) -> float:
        return round(_LEFT + _WIDTH * (min(max(effect, -EDGE), EDGE) + EDGE) / (2 * EDGE), 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" aria-label="Every part of every claim, its effect in units of d with its interval">',
        "<style>text{font:12px sans-serif;fill:#1f2328}.soft{fill:#59636e}.axis{stroke:#8c959f}"
        ".band{fill:#818b98;opacity:.18}@media(prefers-color-scheme:dark){text{fill:#e6edf3}.soft{fill:#9198a1}}</style>",
        f'<rect class="band" x="{x(-1)}" y="{_TOP - 6}" width="{x(1) - x(-1):.1f}" height="{bottom - _TOP + 6}"/>',
        f'<line class="axis" x1="{x(0)}" x2="{x(0)}" y1="{_TOP - 6}" y2="{bottom}"/>',
        f'<text class="soft" x="{x(-EDGE)}" y="{_TOP - 14}">against the claim</text>',
        f'<text class="soft" x="{x(EDGE)}" y="{_TOP - 14}" text-anchor="end">as the claim says</text>',
    ]
    for tick in range(-int(EDGE), int(EDGE) + 1):
        parts.append(
            f'<text class="soft" x="{x(tick)}" y="{bottom + 16}" text-anchor="middle">'
            f"{'0' if tick == 0 else f'{tick:+d} d'}</text>"
        )
    for number, (name, one) in enumerate(rows):
        y = _TOP + _ROW * number + _ROW / 2
        colour = _COLOURS.get(one.word, "#8c959f")
        parts.append(
            f'<text x="8" y="{y + 4:g}">{escape(name)}</text>'
            f'<text x="56" y="{y + 4:g}" class="soft">{escape(_shortened(one.part.says))}</text>'
            f'<text x="{_LEFT + _WIDTH + 12}" y="{y + 4:g}" style="fill:{colour}">'
            f"{escape(one.verdict)}</text>"
        )
        if (estimate := one.evidence.estimate) is None:
            continue
        shift = one.part.d if one.part.sign == ">=" else 0.0
        turn = (-1 if _leftwards(one.part.sign, estimate.value) else 1) / one.part.d
        low, high = sorted((bound + shift) * turn for bound in estimate.interval())
        parts.append(
            f'<line x1="{x(low)}" x2="{x(high)}" y1="{y:g}" y2="{y:g}" stroke="{colour}" stroke-width="2"/>'
        )
        middle = (estimate.value + shift) * turn
        if abs(middle) <= EDGE:
            parts.append(f'<circle cx="{x(middle)}" cy="{y:g}" r="4" fill="{colour}"/>')
        else:
            side = 1 if middle > 0 else -1
            tip = x(side * EDGE)
            parts.append(
                f'<path d="M{tip + 7 * side:g} {y:g}L{tip:g} {y - 4:g}V{y + 4:g}Z" fill="{colour}"/>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _leftwards(sign: str, value: float) -> bool:
    """Whether an effect is drawn towards the left, against the claim: of `=` any distance is."""
    return value > 0 if sign == "=" else sign == "-"


def _shortened(text: str, width: int = 56) -> str:
    return text if len(text) <= width else f"{text[: width - 1].rstrip()}\N{HORIZONTAL ELLIPSIS}"
