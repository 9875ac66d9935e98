"""Data that a model writes, without training anything: preferences that a judge labels, or demonstrations."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from alignbench import layout, store
from alignbench.api.config import Labelling, NamedJudge, Revising
from alignbench.api.launcher import Event, Task
from alignbench.errors import RecipeError
from alignbench.recipe.configs import build
from alignbench.recipe.resolve import resolve
from alignbench.recipe.schema import BASE, AdapterStart, Loaded
from alignbench.rows import Prompt
from alignbench.worker.run.context import CellContext
from alignbench.worker.run.session import Session
from alignbench.worker.tasks import prepare

Kind = Literal["preferences", "demonstrations"]


def generate(
    loaded: Loaded,
    out: Path,
    *,
    how: Labelling | Revising,
    judge: NamedJudge | None = None,
    adapter: str | None = None,
    seed: int = 0,
    emit: Callable[[Event], None] = lambda event: None,
) -> dict[str, Any]:
    """Write rows for the recipe's training prompts to `out`, with a card; return what is known of them.

    Labelling lets the recipe's model, or `adapter` on it, answer and `judge` compare: `preferences.jsonl`.
    Revising lets the model correct itself: `demonstrations.jsonl`. Any recipe can name the file as its data.
    Raises RecipeError where the folder holds something already.
    """
    from alignbench.feedback import agreement_with_people, labelling, revising

    if out.exists() and any(out.iterdir()):
        raise RecipeError(f"{out} holds something already", "name a new folder with --out")
    recipe, root = loaded.recipe, loaded.path.parent
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        task = Task(
            "prepare",
            run=work / "run",
            root=root,
            plan=resolve(recipe).model_dump_json(),
            home=store.default_root(),
            log=work / layout.LOG,
            threads=1,
            what={"key": "generate"},
        )
        prepare.main(task, emit)
        session = Session(task, emit)
        start = BASE if adapter is None else AdapterStart(adapter=adapter)
        run = CellContext(session, label="generated", seed=seed, method="", start=start, folder=work)
        prompts = list({row.id: row for row in session.table.rows(Prompt, "train", seed=seed)}.values())
        principles = labelling.principles(how.constitution, root)
        emit(Event("writing", 0, len(prompts)))
        if isinstance(how, Labelling):
            named = judge or NamedJudge(name="self")
            with run.meter.charging():
                labeller = run.judge(named)
                found = labelling.label(labeller, run.start, prompts, how, principles, key=seed)
                found = replace(found, facts={**found.facts, **agreement_with_people(run, labeller, how)})
        else:
            named = None
            with run.meter.charging():
                rows = revising.revise(run.start, prompts, how, principles, key=seed)
            found = labelling.Labelled(list(rows), {"prompts": len(prompts), "kept": len(rows)})
        facts = {
            **found.facts,
            "model": recipe.model.id,
            "adapter": adapter,
            "how": how.model_dump(mode="json"),
            "seed": seed,
            "judge": None if named is None else _spelled_out(named),
            "spent": {
                name: value for name, value in vars(run.ledger.cost).items() if name.startswith("judge")
            },
            "generated_tokens": run.ledger.cost.generated_tokens,
        }
        made = labelling.Labelled(found.rows, facts)
        out.mkdir(parents=True, exist_ok=True)
        made.save(work)
        kind: Kind = "preferences" if isinstance(how, Labelling) else "demonstrations"
        shutil.move(work / layout.LABELLED, out / layout.generated(kind))
        shutil.move(work / layout.LABELLING, out / layout.LABELLING)
    store.write_text(out / "README.md", card(kind, facts))
    return facts


def card(kind: Kind, facts: dict[str, Any]) -> str:
    """Return the card of the rows: who wrote them, how, and what to check before sharing them."""
    judge = facts["judge"]
    labelled = f" and labelled by the judge `{judge['name']}`" if judge else " and revised by itself"
    text = json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=False)
    models = " and of the judge" if judge else ""
    return f"""# {facts["kept"]} {kind} written by a model

`{kind}.jsonl`: the answers were written by `{facts["model"]}`{labelled}. No person has looked at them.

**Licence.** What a model writes may be bound by the licence or the terms of that model{models}: some allow no
training of other models on it, others ask to be named. The prompts keep the licence of their source. Look
both up before you share these rows or a model that was trained on them.

```json
{text}
```
"""


def _spelled_out(named: NamedJudge) -> dict[str, Any]:
    _, config = build("judges", named.name, named.config)
    return {"name": named.name, "config": config.model_dump(mode="json")}
