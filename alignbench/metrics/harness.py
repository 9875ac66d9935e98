"""Published benchmarks through lm-evaluation-harness, with this run's policies and local files only.

The harness formats the questions and scores the answers of the run's quantised policies. On models as small
as the sandbox's this tests the integration, not the numbers.
"""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from alignbench.api.config import Sampling, Settings
from alignbench.api.metric import Cell, Evidence, Measure, Metric, Missing, Need, Request
from alignbench.metrics.answers import table, unreadable
from alignbench.rows import Ids, Prompt
from alignbench.rows import Sequence as Scorable

PRONOUNS = {"male": ("he", "him", "his"), "female": ("she", "her"), "neutral": ("they", "them", "their")}
MISSING = "lm_eval is not installed: pip install 'alignbench[lm-eval]'"

TASKS: Mapping[str, tuple[str, str, Mapping[str, tuple[str, bool | None]]]] = {
    # Task -> the harness's file, its split, and its metrics: suffix of our column, whether higher is better.
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
    "translation": ("translation/wmt_common_yaml", "test", {"bleu": ("", True)}),
}
GENERATED = ("gsm8k", "xquad", "translation")
"""Tasks with generated answers; the others use log-probabilities."""
UNITS = {"likelihood_diff": "nats", "bleu": "BLEU"}
FILTER = "flexible-extract"
"""The answer filter of GSM8K that counts: the last number, since the prompt shows no format."""


class Harness(Metric):
    """One column for each benchmark whose file is named: `harness.truthfulqa_mc1`, `harness.gsm8k`, ...

    Multiple choice needs log-probabilities; a decoding-time policy is measured by the generation tasks only.
    """

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"logprobs", "generations"})
    by_cell: ClassVar[bool] = True

    class Config(Settings):
        """The published files, and how many of their items are used."""

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
        translation: str | None = None
        """Your own JSON lines with `source` and `target`, one sentence each."""
        languages: tuple[str, str] = ("French", "English")
        """Source and target language of `translation`."""
        limit: int | None = Field(default=None, ge=1)
        """Use at most this many items of each task."""
        limit_generated: int | None = Field(default=None, ge=1)
        """At most this many items of each task with generated answers, which are slow; default: `limit`."""
        max_new_tokens: int = Field(default=256, ge=1)
        """Longest generated answer in tokens."""

    @classmethod
    def check_files(cls, config: Any, root: Path) -> Sequence[str]:
        harness = cls(config)
        for task in harness.tasks():
            harness.documents(task, root)
        return ()

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        documents = {task: self.documents(task, evidence.root) for task in self.tasks()}
        found: list[Measure | Missing] = []
        for cell in evidence.cells:
            model = _model(evidence, cell, self.config.max_new_tokens)
            for task, items in documents.items():
                found += self._of(model, cell, task, items)
        return found

    def answers(self, root: Path) -> int:
        return sum(len(self.documents(task, root)) for task in self.tasks() if task in GENERATED)

    def tasks(self) -> list[str]:
        """Return the tasks whose file is given."""
        return [task for task in TASKS if getattr(self.config, task.partition("_mc")[0]) is not None]

    def documents(self, task: str, root: Path) -> list[dict[str, Any]]:
        """Return the items of a task as the harness expects them. Raises DataError for a bad file."""
        field = task.partition("_mc")[0]
        path = root / getattr(self.config, field)
        try:
            return READERS[field](path)[: self._limit(task)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise unreadable(path, str(error), f"evaluation.metrics.harness.{field}") from error

    def _limit(self, task: str) -> int | None:
        found = self.config.limit_generated if task in GENERATED else None
        return self.config.limit if found is None else found

    def _of(
        self, model: Any, cell: Cell, task: str, documents: Sequence[dict[str, Any]]
    ) -> list[Measure | Missing]:
        figures = {f"harness.{task}{end}": (name, better) for name, (end, better) in TASKS[task][2].items()}

        def missing(reason: str) -> list[Measure | Missing]:
            return [Missing(metric=column, **cell._asdict(), reason=reason) for column in figures]

        if model is None:
            return missing(MISSING)
        try:
            samples = run_task(model, task, documents, self.config.languages)
        except NoLogprobsError:
            return missing("the policy gives no log-probabilities")
        return [
            Measure(
                metric=column,
                **cell._asdict(),
                unit=UNITS.get(name, "share"),
                span=None if name in UNITS else (0, 1),
                higher_is_better=better,
                values=dict(zip((f"{task}-{item}" for item in samples), values, strict=True)),
                description=f"{len(samples)} items by lm-evaluation-harness, zero-shot",
            )
            for column, (name, better) in figures.items()
            for values in [
                bleu([sample[name] for sample in samples.values()])
                if name == "bleu"
                else [float(sample[name]) for sample in samples.values()]
            ]
        ]


def _model(evidence: Evidence, cell: Cell, max_new_tokens: int) -> Any | None:
    """Return a cell's policy as the harness's language model; None where the harness is not installed."""
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        return None
    return policy_model(evidence, cell, max_new_tokens)


class NoLogprobsError(Exception):
    """The policy cannot score a text."""


def run_task(
    model: Any, task: str, documents: Sequence[dict[str, Any]], languages: tuple[str, str] = ("", "")
) -> dict[int, dict[str, Any]]:
    """Return the harness's metrics of each item, by item number.

    `languages` names the languages of the task `translation`. `model` is an `lm_eval.api.model.LM`. Nothing is
    downloaded: the items are `documents`.
    """
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate

    file, split, _ = TASKS[task]
    config = _config(file, functions=task != "xquad")
    if task == "xquad":
        # The harness's own function imports a part of transformers that version 5 removed.
        config["process_results"] = squad
    if task == "translation":
        source, target = languages
        config |= {"doc_to_text": f"{source} phrase: {{{{source}}}}\n{target} phrase:"}
        config |= {"doc_to_target": " {{target}}", "metric_list": [{"metric": "bleu"}]}
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
        **({} if split == "validation" else {"validation_split": None}),
    )
    config.pop("tag", None)
    config.pop("include", None)
    asked = ConfigurableTask(config=config)
    asked.set_fewshot_seed(seed=0)
    # Not `simple_evaluate`: it seeds the process again, and lists all installed packages after every task.
    output = evaluate(lm=model, task_dict={task: asked}, log_samples=True, bootstrap_iters=0)
    assert output is not None
    samples: list[Any] = [one for one in output.get("samples", {})[task] if one["filter"] in ("none", FILTER)]
    return {one["doc_id"]: one for one in sorted(samples, key=lambda one: one["doc_id"])}


def policy_model(evidence: Evidence, cell: Cell, max_new_tokens: int) -> Any:
    """Return a cell's policy as the harness's language model; equal requests of several tasks are scored once."""
    from lm_eval.api.model import TemplateLM

    known: dict[Scorable, float] = {}

    class Answering(TemplateLM):
        backend = "causal"

        @property
        def eot_token_id(self) -> int:
            return evidence.first_token

        def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
            # By default, a text begins with the special tokens that the model's tokenizer adds.
            return list(evidence.encode([string], special=add_special_tokens is not False)[0])

        def _loglikelihood_tokens(
            self, requests: list[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
        ) -> list[tuple[float, bool]]:
            # The last token of an answer is not read, and takes no space.
            sequences = [
                Scorable(_fitting(asked, len(answer) - 1, evidence.context_length), tuple(answer))
                for _, asked, answer in requests
            ]
            fresh = list(dict.fromkeys(one for one in sequences if one not in known))
            scored = evidence.score(cell, fresh)
            if scored is None:
                raise NoLogprobsError
            sums = (float(one.logps.astype("float64").sum()) for one in scored)
            known.update(zip(fresh, sums, strict=True))
            # None of these tasks uses whether the answer is the greedy one.
            return [(known[one], False) for one in sequences]

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
            raise NotImplementedError("perplexity is a metric of its own")

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            texts, context_length = [request.args[0] for request in requests], evidence.context_length
            # The harness refuses answers that may fill the whole context; half of it is kept for the question.
            longest = max_new_tokens if context_length is None else min(max_new_tokens, context_length // 2)
            asked = [
                Prompt(
                    id=f"harness-{request.task_name}-{request.doc_id}",
                    prompt=({"role": "user", "content": text},),
                    prompt_ids=_fitting(ids, longest, context_length),
                )
                for request, text, ids in zip(requests, texts, evidence.encode(texts), strict=True)
            ]
            sampling = Sampling(temperature=0, max_new_tokens=longest)
            answers = evidence.generations(cell, Request(tuple(asked), sampling=sampling))
            stops = [request.args[1].get("until", ()) for request in requests]
            return [cut(answer.text, until) for answer, until in zip(answers, stops, strict=True)]

    return Answering()


def cut(text: str, until: Sequence[str]) -> str:
    """Return a text up to the first stop string."""
    return min((text.split(stop)[0] for stop in until if stop), key=len, default=text)


def _fitting(asked: Sequence[int], answer: int, context_length: int | None) -> Ids:
    """Return the end of a question that fits into the context before `answer` tokens, as the harness cuts it."""
    return tuple(asked if context_length is None else asked[-max(1, context_length - answer) :])


def squad(document: dict[str, Any], answers: Sequence[str]) -> dict[str, float]:
    """Return SQuAD's F1 and exact match (Rajpurkar et al. 2016) against the document's first answer."""
    words, right = (_words(text) for text in (answers[0], document["answers"]["text"][0]))
    shared = sum((Counter(words) & Counter(right)).values())
    return {
        "f1": 2 * shared / (len(words) + len(right)) if shared else 0.0,
        "exact_match": float(words == right),
    }


def _words(text: str) -> list[str]:
    """Lower-cased words, without punctuation and articles."""
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", kept).split()


def bleu(items: Sequence[tuple[str, str]]) -> list[float]:
    """Return values whose mean is the corpus BLEU (sacrebleu); `items`: (reference, translation).

    Corpus BLEU is not a mean over sentences: each value is the corpus BLEU plus the influence of its sentence,
    by leaving it out (`alignbench.metrics.fits`).
    """
    import numpy as np
    from sacrebleu.metrics.bleu import BLEU

    scorer = BLEU()
    each = [scorer.corpus_score([answer], [[right]]) for right, answer in items]
    parts = np.array([[*one.counts, *one.totals, one.sys_len, one.ref_len] for one in each])

    def of(sums: Any) -> float:
        half = (len(sums) - 2) // 2
        correct, total = sums[:half].tolist(), sums[half:-2].tolist()
        return BLEU.compute_bleu(correct, total, int(sums[-2]), int(sums[-1])).score

    whole = parts.sum(axis=0)
    moved = (
        np.array([of(whole) - of(whole - one) for one in parts]) if len(items) > 1 else np.zeros(len(items))
    )
    return (of(whole) + (len(items) - 1) * (moved - moved.mean())).tolist()


def _config(file: str, *, functions: bool) -> dict[str, Any]:
    """Return the harness's configuration of a task."""
    import lm_eval.tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    return dict(load_yaml(Path(lm_eval.tasks.__file__).parent / file, resolve_func=functions))


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
    return [{name: row[name] for name in kept} for row in table(path, "sent_more")]


def winogender(path: Path) -> list[dict[str, Any]]:
    """Return Winogender's sentences, each with its pronoun and who it refers to (0 occupation)."""
    found = []
    for row in table(path, "sentid", delimiter="\t"):
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


def translation(path: Path) -> list[dict[str, Any]]:
    """Return pairs of a sentence and its translation."""
    return [{name: row[name] for name in ("source", "target")} for row in gsm8k(path)]


READERS: Mapping[str, Callable[[Path], list[dict[str, Any]]]] = {
    "truthfulqa": truthfulqa,
    "crows_pairs": crows_pairs,
    "winogender": winogender,
    "gsm8k": gsm8k,
    "xquad": xquad,
    "translation": translation,
}
