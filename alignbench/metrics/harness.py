"""Published benchmarks through lm-evaluation-harness, on this run's own policies and on local files alone.

The harness words the questions and scores the answers; the policies of the run answer them, quantised as
they are. On models as small as the sandbox's this proves the plumbing, not the figures.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from alignbench.method import Sampling, Settings
from alignbench.metrics import Cell, Evidence, Measure, Metric, Missing, Need, Request
from alignbench.metrics.answers import table, unreadable
from alignbench.rows import Prompt
from alignbench.rows import Sequence as Scorable

PRONOUNS = {"male": ("he", "him", "his"), "female": ("she", "her"), "neutral": ("they", "them", "their")}
MISSING = "lm_eval is not installed: pip install 'alignbench[lm-eval]'"

TASKS: Mapping[str, tuple[str, str, Mapping[str, tuple[str, bool | None]]]] = {
    # Our field -> the harness's file, the split it reads, and its figures: name here, which way is better.
    "truthfulqa_mc1": ("truthfulqa/truthfulqa_mc1.yaml", "validation", {"acc": ("", True)}),
    "truthfulqa_mc2": ("truthfulqa/truthfulqa_mc2.yaml", "validation", {"acc": ("", True)}),
    "crows_pairs": (
        "crows_pairs/crows_pairs_english.yaml",
        "test",
        {"pct_stereotype": ("", None), "likelihood_diff": (".difference", False)},
    ),
    "winogender": ("winogender/winogender.yaml", "test", {"acc": ("", True)}),
    "gsm8k": ("gsm8k/gsm8k.yaml", "test", {"exact_match": ("", True)}),
    "xquad": ("xquad/xquad_en.yaml", "validation", {"f1": ("", True), "exact_match": (".exact", True)}),
}
FILTER = "flexible-extract"
"""Which of GSM8K's two readings of an answer counts: the last number, since nobody shows a format."""


class Harness(Metric):
    """One column for each benchmark whose file is named: `harness.truthfulqa_mc1`, `harness.gsm8k`, ...

    Multiple choice needs log-probabilities; a decoding-time policy takes the generation tasks alone.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"logprobs", "generations"})

    class Config(Settings):
        """The published files, and how much of them is asked."""

        truthfulqa: str | None = None
        """`mc_task.json`."""
        crows_pairs: str | None = None
        """`crows_pairs_anonymized.csv`."""
        winogender: str | None = None
        """`all_sentences.tsv`."""
        gsm8k: str | None = None
        """`test.jsonl`, asked without examples."""
        xquad: str | None = None
        """`xquad.en.json`."""
        limit: int | None = Field(default=None, ge=1)
        """Ask at most this many items of each."""
        max_new_tokens: int = Field(default=256, ge=1)
        """Tokens after which a generated answer is cut."""

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        found: list[Measure | Missing] = []
        for task in self.tasks():
            documents = self.documents(task, evidence.root)
            for cell in evidence.cells:
                found += self._of(evidence, cell, task, documents)
        return found

    def tasks(self) -> list[str]:
        """Return the tasks whose file is named."""
        return [task for task in TASKS if getattr(self.config, task.partition("_mc")[0]) is not None]

    def documents(self, task: str, root: Path) -> list[dict[str, Any]]:
        """Return the items of a task as the harness expects them. Raises DataError for a bad file."""
        field = task.partition("_mc")[0]
        path = root / getattr(self.config, field)
        try:
            return READERS[field](path)[: self.config.limit]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise unreadable(path, str(error), f"evaluation.metrics.harness.{field}") from error

    def _of(
        self, evidence: Evidence, cell: Cell, task: str, documents: Sequence[dict[str, Any]]
    ) -> list[Measure | Missing]:
        figures = {f"harness.{task}{end}": (name, better) for name, (end, better) in TASKS[task][2].items()}

        def missing(reason: str) -> list[Measure | Missing]:
            return [Missing(metric=column, **cell._asdict(), reason=reason) for column in figures]

        try:
            import lm_eval  # noqa: F401
        except ImportError:
            return missing(MISSING)
        model = policy_model(evidence, cell, self.config.max_new_tokens)
        try:
            samples = run_task(model, task, documents)
        except NoLogprobsError:
            return missing("the policy gives no log-probabilities")
        return [
            Measure(
                metric=column,
                **cell._asdict(),
                unit="nats" if name == "likelihood_diff" else "share",
                higher_is_better=better,
                values={f"{task}-{item}": float(sample[name]) for item, sample in samples.items()},
                description=f"{len(samples)} items by lm-evaluation-harness, without examples of ours",
            )
            for column, (name, better) in figures.items()
        ]


class NoLogprobsError(Exception):
    """The policy cannot score a text."""


def run_task(model: Any, task: str, documents: Sequence[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Return what the harness says of each item, by its number: its figures, item by item.

    `model` is an `lm_eval.api.model.LM`. Nothing is downloaded: the items are `documents`.
    """
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    file, split, _ = TASKS[task]
    config = _config(file)
    items = datasets.Dataset.from_list(list(documents))
    config.update(
        task=task,
        custom_dataset=lambda **_: {split: items},
        dataset_path=None,
        dataset_name=None,
        num_fewshot=0,
        training_split=None,
        fewshot_split=None,
        metadata=None,
    )
    config.pop("tag", None)
    config.pop("include", None)
    said = simple_evaluate(
        model=model,
        tasks=[ConfigurableTask(config=config)],
        task_manager=TaskManager(include_defaults=False),  # or it reads thousands of files of other tasks
        log_samples=True,
        bootstrap_iters=0,
    )
    assert said is not None
    samples: list[Any] = [one for one in said.get("samples", {})[task] if one["filter"] in ("none", FILTER)]
    return {one["doc_id"]: one for one in sorted(samples, key=lambda one: one["doc_id"])}


def policy_model(evidence: Evidence, cell: Cell, max_new_tokens: int) -> Any:
    """Return a cell's policy as the harness's language model."""
    from lm_eval.api.model import TemplateLM

    class Answering(TemplateLM):
        backend = "causal"

        @property
        def eot_token_id(self) -> int:
            return evidence.first_token

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            return list(evidence.encode([string], special=bool(add_special_tokens))[0])

        def _loglikelihood_tokens(
            self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
        ) -> list[tuple[float, bool]]:
            sequences = [_fitting(evidence, asked, answer) for _, asked, answer in requests]
            scored = evidence.score(cell, sequences)
            if scored is None:
                raise NoLogprobsError
            # Whether the answer is the greedy one is asked by none of these tasks.
            return [(float(one.logps.astype("float64").sum()), False) for one in scored]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            raise NotImplementedError("perplexity is a metric of its own")

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            texts = [request.args[0] for request in requests]
            asked = [
                Prompt(
                    id=f"harness-{request.task_name}-{request.doc_id}",
                    prompt=({"role": "user", "content": text},),
                    prompt_ids=_fitting(evidence, ids, ()).prompt,
                )
                for request, text, ids in zip(requests, texts, evidence.encode(texts), strict=True)
            ]
            sampling = Sampling(temperature=0, max_new_tokens=max_new_tokens)
            answers = evidence.generations(cell, Request(tuple(asked), sampling=sampling))
            stops = [request.args[1].get("until", ()) for request in requests]
            return [cut(answer.text, until) for answer, until in zip(answers, stops, strict=True)]

    return Answering()


def cut(text: str, until: Sequence[str]) -> str:
    """Return a text up to the first of the strings that end it."""
    return min((text.split(stop)[0] for stop in until if stop), key=len, default=text)


def _fitting(evidence: Evidence, asked: Sequence[int], answer: Sequence[int]) -> Scorable:
    """A sequence whose beginning is cut where the model's context has no room for it, as the harness does."""
    room = evidence.room
    kept = list(asked) if room is None else list(asked)[-max(1, room - len(answer)) :]
    return Scorable(tuple(kept), tuple(answer))


def _config(file: str) -> dict[str, Any]:
    """A task's own configuration, as the harness ships it."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    return dict(load_yaml(Path(lm_eval.tasks.__file__).parent / file, resolve_func=True))


def truthfulqa(path: Path) -> list[dict[str, Any]]:
    """Return TruthfulQA's questions with both sets of choices."""
    items = json.loads(path.read_text(encoding="utf-8"))
    return [
        {
            "question": item["question"],
            **{
                kind: {"choices": list(item[kind]), "labels": list(item[kind].values())}
                for kind in ("mc1_targets", "mc2_targets")
            },
        }
        for item in items
    ]


def crows_pairs(path: Path) -> list[dict[str, Any]]:
    """Return CrowS-Pairs' pairs of sentences."""
    kept = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")
    return [{name: row[name] for name in kept} for row in table(path, "sent_more", "crows_pairs")]


def winogender(path: Path) -> list[dict[str, Any]]:
    """Return Winogender's sentences, each with its pronoun and who it refers to (0 occupation)."""
    found = []
    for row in table(path, "sentid", "winogender", delimiter="\t"):
        occupation, participant, answer, gender, _ = row["sentid"].split(".")
        words = {word.strip(".,;").lower() for word in row["sentence"].split()}
        pronoun = next(word for word in PRONOUNS[gender] if word in words)
        found.append(
            {
                "sentence": row["sentence"],
                "pronoun": pronoun,
                "occupation": occupation,
                "participant": participant,
                "gender": gender,
                "label": int(answer),
            }
        )
    return found


def gsm8k(path: Path) -> list[dict[str, Any]]:
    """Return GSM8K's questions with their worked answers."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def xquad(path: Path) -> list[dict[str, Any]]:
    """Return XQuAD's questions, each with its passage."""
    read = json.loads(path.read_text(encoding="utf-8"))
    return [
        {
            "context": paragraph["context"],
            "question": asked["question"],
            "answers": {"text": [answer["text"] for answer in asked["answers"]]},
        }
        for article in read["data"]
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]


READERS: Mapping[str, Callable[[Path], list[dict[str, Any]]]] = {
    "truthfulqa": truthfulqa,
    "crows_pairs": crows_pairs,
    "winogender": winogender,
    "gsm8k": gsm8k,
    "xquad": xquad,
}
