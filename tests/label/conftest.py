"""A small run with five labels, and raters who rank it as a person would: through the page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from alignbench import results, store
from alignbench.api.policy import Answer
from alignbench.label import design
from alignbench.label.journal import Annotation
from alignbench.worker.finished import samples

LABELS = ("base", "sft", "dpo", "orpo", "rain")
HOSTILE = (
    '<img src=x onerror="document.title=1">',
    "</script><script>document.title='owned'</script>",
    "\u202eright to left override\u202c \x1b[31m\x00",
    "مرحبا بالعالم، هذا جواب طويل",
    "日本語の答えです。もう一つの文。",
)


def write_run(folder: Path, *, prompts: int = 20, texts: Callable[[int, str, int], str], seeds=(0,)) -> Path:
    """Write what the labelling reads of a finished run."""
    cells = []
    for label in LABELS:
        for seed in seeds:
            at = f"cells/{label}/seed-{seed}"
            (folder / at).mkdir(parents=True)
            answers = [Answer(f"p{n}", texts(n, label, seed), (1, 2), finished=True) for n in range(prompts)]
            samples.write(folder / at, {None: answers})
            cells.append(
                results.CellResult(label=label, seed=seed, status="done", samples=f"{at}/samples.parquet")
            )
    lines = (
        store.canonical({"id": f"p{n}", "prompt": [{"role": "user", "content": f"Question {n}?"}]})
        for n in range(prompts)
    )
    (folder / "evaluation").mkdir()
    (folder / "evaluation/prompts.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    found = results.Results(
        schema=results.SCHEMA,
        run="small",
        labels=tuple(results.LabelResult(label=label, seeds=tuple(seeds)) for label in LABELS),
        cells=tuple(cells),
    )
    results.write(found, folder)
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", texts=lambda n, label, seed: f"{label} answers {n} at seed {seed}")


def items(count: int, answers: int = 5) -> list[design.Item]:
    return [
        design.item(
            ({"role": "user", "content": f"Question {n}?"},),
            {label: f"answer {n} of {label}" for label in LABELS[:answers]},
            prompt_id=f"p{n}",
            seed=0,
        )
        for n in range(count)
    ]


def annotation(item: design.Item, rater: str, ranks, round: int = 0, **more) -> Annotation:
    ticket = f"ticket-{rater}-{item.id}-{round}-{more.pop('again', 0)}"[:64]
    return Annotation(ticket=ticket, rater=rater, item=item.id, ranks=tuple(ranks), round=round, **more)


@pytest.fixture(scope="session")
def make_items():
    return items


@pytest.fixture(scope="session")
def make_annotation():
    return annotation


@pytest.fixture
def make_run():
    return write_run


@pytest.fixture
def hostile() -> tuple[str, ...]:
    return HOSTILE
