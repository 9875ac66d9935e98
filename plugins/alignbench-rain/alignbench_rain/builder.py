"""What a run gives to a decoder: model, evaluator and encoder, and how well the evaluator judges."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from alignbench import DecodingBase, Pair, PluginError, Policy, Prompt, Query, Run, Sampling
from alignbench.integrations import count
from alignbench.spending import computed
from alignbench_rain.best import BestOf
from alignbench_rain.decoder import OwnStates, SearchDecoder, SentenceEncoder
from alignbench_rain.evaluation import Evaluation, JudgeEvaluation, SelfEvaluation
from alignbench_rain.questions import question

CALIBRATION = 32
"""Training prompts whose plain answers show how similar two texts are, and what answers cost."""

FIRES = 0.05
"""Share of dissimilar pairs of answers to one prompt that own states call similar."""

SENTENCES = 0.95
"""The authors' threshold for their sentence encoder."""

CUT = 0.1
"""Share of searches that end at their bounds above which the row has a warning."""

PLAIN = Sampling(max_new_tokens=64)


class Maker:
    """Puts the parts of a decoder together for one run."""

    def __init__(self, run: Run, config: Any):
        self.run, self.config = run, config
        self.start = run.start
        self.decoding = DecodingBase(self.start)
        self.base = run.policy("base")

    def decoder(self) -> SearchDecoder:
        """Return the decoder of a run that aligns."""
        encoder = self.encoder()
        self.measure_evaluator()
        return SearchDecoder(self.config, self.decoding, self.evaluation(), encoder, self.record)

    def restored(self, folder: Path) -> SearchDecoder:
        """Return the decoder that was saved in `folder`."""
        record = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
        if "centre" in record:
            encoder = OwnStates(np.asarray(record["centre"], np.float32), record["threshold"])
        else:
            encoder = SentenceEncoder(self.sentences(), record["threshold"])
        return SearchDecoder(self.config, self.decoding, self.evaluation(), encoder)

    def best_of_n(self, n: int | Mapping[float, int] | None = None) -> BestOf:
        """Return the best-of-n decoder; without `n` as the config says."""
        evaluation = self.evaluation()
        if n is None:
            self.measure_evaluator()
            like = self.config.like
            n = int(self.config.n) if like is None else self.matched(self.run.policy(like))
        return BestOf(self.start, evaluation, n)

    def matched(self, other: Policy) -> Mapping[float, int]:
        """Return how many plain answers, judged, cost the positions of one answer of `other`, by temperature.

        Both are asked as the evaluation asks them. At temperature 0 all plain answers are equal: one is drawn. Above,
        answers share their prompt, so that n of them cost less than n times one: it is measured at one and near n.
        """
        prompts = list(self.run.rows(Prompt))[:CALIBRATION]
        follows = "temperature" in other.follows
        known: dict[float, float] = {}
        found: dict[float, int] = {}

        def cost(policy: Policy, sampling: Sampling) -> float:
            with computed() as work:
                policy.answer(prompts, sampling, self.run.seed)
            return float(work.positions)

        def plain(n: int, sampling: Sampling) -> float:
            return cost(BestOf(self.start, self.evaluation(), n), sampling)

        for sampling in self.run.samplings:
            at = sampling.temperature
            if at == 0:
                found[at] = 1
                continue
            key = at if follows else 1.0
            if key not in known:
                known[key] = cost(other, sampling)
            searched, single = known[key], plain(1, sampling)
            n = max(2, round(searched / single))
            each = max((plain(n, sampling) - single) / (n - 1), 1.0)
            found[at] = max(1, round(1 + (searched - single) / each))
        self.run.log(0, **{f"answers/{at:g}": n for at, n in found.items()})
        return found

    # --- the evaluator --------------------------------------------------------------------------------------

    def evaluation(self) -> Evaluation:
        """Return who says how good an answer is."""
        named = self.config.evaluator
        soft = self.config.votes == "soft"
        if isinstance(named, str):
            return self.own(self.decoding if named == "start" else DecodingBase(self.base), soft=soft)
        return JudgeEvaluation(
            self.run.judge(named), self.config.judged_part, self.config.good_above, soft=soft
        )

    def own(self, decoding: DecodingBase, *, soft: bool = False) -> SelfEvaluation:
        """Return the self-evaluation of a model."""
        return SelfEvaluation(decoding, question(self.config.question), soft=soft)

    def measure_evaluator(self) -> None:
        """Put on record how well start and base evaluate validation pairs."""
        pairs = list(self.run.rows(Pair, "validation"))[: self.config.pairs]
        measured: dict[str, float] = {}
        if pairs:
            measured |= accuracy(self.own(self.decoding), pairs, "start")
            if self.decoding.policy.fingerprint() != (base := DecodingBase(self.base)).policy.fingerprint():
                measured |= accuracy(self.own(base), pairs, "base")
            named = self.config.evaluator
            self.run.record.judge(
                f"self-evaluation (judged by {named if isinstance(named, str) else named.name})", **measured
            )

    def record(self, **numbers: float) -> None:
        """Log what answers cost, and warn where many searches ended at their bounds."""
        self.run.log(0, **numbers)
        if (cut := numbers["exhausted"]) > CUT:
            self.run.record.warning(
                "exhausted",
                0,
                f"{cut:.0%} of the searches ended at max_forwards, max_tokens or max_seconds: the rest of those "
                "answers is greedy",
            )

    # --- the encoder ----------------------------------------------------------------------------------------

    def encoder(self) -> OwnStates | SentenceEncoder:
        """Return what says how alike two texts are."""
        threshold = self.config.threshold
        if self.config.encoder != "own":
            return SentenceEncoder(self.sentences(), SENTENCES if threshold is None else threshold)
        states = self.states()
        centre = np.concatenate(states).mean(0) if states else np.zeros(1, np.float32)
        if threshold is None:
            threshold = calibrated([rows - centre for rows in states])
        own = f"own states at {threshold:.2f}"
        self.run.record.departure("encoder of alike answers", f"MiniLM at {SENTENCES}", own)
        return OwnStates(centre.astype(np.float32), threshold)

    def sentences(self) -> Any:
        """Return the sentence encoder, whose networks are counted like the base.

        Raises PluginError where it cannot be opened, or has no network that can be counted.
        """
        from transformers import PreTrainedModel

        try:
            from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise PluginError(
                f"the encoder {self.config.encoder} needs sentence-transformers, which is not installed",
                "pip install alignbench-rain[encoder], or set encoder: own",
            ) from error
        encoder = SentenceTransformer(self.config.encoder)
        networks = [one for one in encoder.modules() if isinstance(one, PreTrainedModel)]
        if not networks:
            raise PluginError(
                f"the encoder {self.config.encoder} has no network of transformers, so that nothing of it is counted",
                "name an encoder with one, or set encoder: own",
            )
        inside = {part for one in networks for part in one.modules() if part is not one}
        for one in networks:
            if one not in inside:
                count(one)
        return encoder

    def states(self) -> list[Any]:
        """Return the mean states of the start's distinct answers to some training prompts, by prompt."""
        rows = {row.id: row for row in self.run.rows(Pair)}
        prompts = [Prompt(id=row.id, prompt=row.prompt, prompt_ids=row.prompt_ids) for row in rows.values()]
        prompts = prompts[:CALIBRATION]
        answers = self.start.answer(prompts, PLAIN, self.run.seed, samples=4)
        of = {
            prompt.id: list(dict.fromkeys(a.ids for a in answers if a.prompt_id == prompt.id))
            for prompt in prompts
        }
        found = []
        for prompt in prompts:
            tree, begun = self.decoding.new_tree(), (len(prompt.prompt_ids),)
            queries = [Query(prompt.prompt_ids + ids, since=begun) for ids in of[prompt.id] if ids]
            (replies,) = self.decoding.ask([(tree, queries)])
            found.append(np.concatenate([reply.states for reply in replies if reply.states is not None]))
            tree.prune(())
        return found


def calibrated(answers: list[Any]) -> float:
    """Return the cosine that a share `FIRES` of the pairs of answers to one prompt reach."""
    cosines = [
        float(one @ other / max(1e-8, float(np.linalg.norm(one) * np.linalg.norm(other))))
        for rows in answers
        for one, other in combinations(rows, 2)
    ]
    return float(np.quantile(cosines, 1 - FIRES)) if cosines else 1.0


def accuracy(evaluation: SelfEvaluation, pairs: list[Pair], who: str) -> dict[str, float]:
    """Return how often the votes on two answers differ, and how often they are then for the chosen one."""
    prompts = [pair for pair in pairs for _ in range(2)]
    texts = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    values = evaluation.scores(prompts, texts, soft=False)
    decided = [(a, b) for a, b in zip(values[::2], values[1::2], strict=True) if a != b]
    numbers = {f"self_evaluation_{who}_decided": len(decided) / len(pairs)}
    if decided:
        numbers[f"self_evaluation_{who}"] = sum(a > b for a, b in decided) / len(decided)
    return numbers
