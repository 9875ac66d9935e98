"""Diversity of many answers to one open question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from math import log2
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alignbench.api.metric import Evidence, Figure, Measure, Metric, Missing, Need, Request
from alignbench.metrics.open_prompts import OpenPrompts, answers, needs_package, segmenter, words

BLEU_OF = 20
"""Answers per question that self-BLEU compares with each other: its cost is quadratic."""


MAPPED = 60
"""Answers of each label on a map."""
MAPS = 2
"""Open questions that are mapped, of different families where possible."""


class Diversity(Metric):
    """Numbers of many answers to each open question, at temperature 1 ("Creativity has left the chat"):

    `diversity.entropy`      of the answers, as whole texts, in bits; `diversity.effective` is 2 to its power
    `diversity.top_share`    share of the most frequent answer
    `diversity.distinct_1`   different words among all words; `diversity.distinct_2` the same of word pairs
    `diversity.self_bleu`    BLEU of an answer against others to the same question, 0 to 100 (sacrebleu)
    `diversity.cosine`       mean cosine between any two answers' embeddings
    `diversity.clusters`     how many clusters HDBSCAN finds, `diversity.largest` the share of the largest
    """

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"generations"})
    by_cell: ClassVar[bool] = True

    class Config(OpenPrompts):
        """The questions, and the language of the answers."""

        language: str = "en"
        """ISO 639 code of the answers' language, for splitting them into words."""

    def requests(self, root: Path) -> Sequence[Request]:
        return (self.config.request(),)

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        request = self.config.request()
        found: list[Measure | Missing] = []
        for cell in evidence.cells:
            of = answers(evidence, cell, request)
            cut = {id: [words(text, self.config.language) for text in texts] for id, texts in of.items()}
            entropies = {id: entropy(texts) for id, texts in of.items()}
            how = f"of {request.samples} answers to each of {len(of)} open questions"
            by_word = f"{how}, split {segmenter(self.config.language)}"
            columns: dict[str, tuple[str, dict[str, float] | str, str]] = {
                "entropy": ("bits", entropies, how),
                "effective": ("answers", {id: 2**value for id, value in entropies.items()}, how),
                "top_share": ("share", {id: top_share(texts) for id, texts in of.items()}, how),
                "distinct_1": (
                    "share",
                    _some({id: distinct(texts, 1) for id, texts in cut.items()}),
                    by_word,
                ),
                "distinct_2": (
                    "share",
                    _some({id: distinct(texts, 2) for id, texts in cut.items()}),
                    by_word,
                ),
                "self_bleu": (
                    "BLEU",
                    _self_bleu(cut),
                    f"{by_word}, each of the first {BLEU_OF} against the others",
                ),
            }
            spread = spreads(evidence, of)
            where = f"{how}, embedded as the base's mean hidden states"
            for name, unit in ("cosine", "cosine"), ("clusters", "clusters"), ("largest", "share"):
                columns[name] = (unit, spread if isinstance(spread, str) else spread[name], where)
            found += [
                Missing(metric=f"diversity.{name}", **cell._asdict(), reason=str(values or "no words"))
                if isinstance(values, str) or not values
                else Measure(
                    metric=f"diversity.{name}",
                    **cell._asdict(),
                    unit=unit,
                    values=values,
                    description=description,
                )
                for name, (unit, values, description) in columns.items()
            ]
        return found

    def figures(self, evidence: Evidence) -> Sequence[Figure]:
        try:
            from sklearn.manifold import TSNE
        except ImportError:  # the columns give the reason
            return ()
        request = self.config.request()
        family = {prompt.id: str(prompt.extra.get("family", prompt.id)) for prompt in request.prompts}
        firsts = list({family[id]: id for id in reversed(list(family))}.values())[::-1][:MAPS]
        cells = list({cell.label: cell for cell in reversed(evidence.cells)}.values())[::-1]
        asked = {prompt.id: prompt.prompt[-1]["content"] for prompt in request.prompts}
        found = []
        for id in firsts:
            texts = {cell.label: answers(evidence, cell, request)[id][:MAPPED] for cell in cells}
            points = evidence.embed([text for ones in texts.values() for text in ones])
            if len(points) < 12:
                continue
            near = min(30.0, len(points) / 4)
            flat = TSNE(perplexity=near, init="pca", random_state=0).fit_transform(points.astype(np.float64))
            places = np.round(flat / np.abs(flat).max(), 3).tolist()
            data, begin = {}, 0
            for label, ones in texts.items():
                data[label], begin = places[begin : begin + len(ones)], begin + len(ones)
            description = (
                f"Answers to '{asked[id]}', as t-SNE of the base's hidden states: near points are similar, "
                "distances between far groups have no meaning. Few groups of points mean few distinct answers."
            )
            found.append(Figure(kind="map", title=asked[id], description=description, data=data))
        return found


def entropy(values: Sequence[str]) -> float:
    """Return the entropy of the empirical distribution, in bits."""
    return sum(-n / len(values) * log2(n / len(values)) for n in Counter(values).values())


def top_share(values: Sequence[str]) -> float:
    """Return the share of the most frequent value."""
    return Counter(values).most_common(1)[0][1] / len(values)


def distinct(texts: Sequence[Sequence[str]], n: int) -> float | None:
    """Return different n-grams (n 1 or 2) divided by all n-grams; None where there are none."""
    grams = [gram for text in texts for gram in (text if n == 1 else pairwise(text))]
    return len(set(grams)) / len(grams) if grams else None


def self_bleu(texts: Sequence[Sequence[str]]) -> float:
    """Return the mean sentence BLEU of each of the first BLEU_OF texts against the others, 0 to 100."""
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(tokenize="none", effective_order=True)
    joined = [" ".join(text) for text in texts[:BLEU_OF]]
    return float(
        np.mean(
            [
                bleu.sentence_score(text, joined[:place] + joined[place + 1 :]).score
                for place, text in enumerate(joined)
            ]
        )
    )


def spreads(evidence: Evidence, of: dict[str, list[str]]) -> dict[str, dict[str, float]] | str:
    """Return mean cosine, clusters and largest share by prompt, or the reason why they are missing."""
    try:
        from sklearn.cluster import HDBSCAN
    except ImportError:
        return needs_package("scikit-learn")
    found: dict[str, dict[str, float]] = {"cosine": {}, "clusters": {}, "largest": {}}
    for id, texts in of.items():
        points = evidence.embed(texts).astype(np.float64)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        found["cosine"][id] = mean_cosine(points)
        smallest = max(2, len(texts) // 20)
        finder: Any = HDBSCAN  # its stubs take `copy` for a text
        kinds = finder(min_cluster_size=smallest, allow_single_cluster=True, copy=True).fit(points).labels_
        sizes = Counter(kind for kind in kinds.tolist() if kind >= 0)
        found["clusters"][id] = float(len(sizes))
        found["largest"][id] = max(sizes.values(), default=0) / len(texts)
    return found


def mean_cosine(points: np.ndarray) -> float:
    """Return the mean cosine of all pairs of unit vectors [N, D]."""
    count = len(points)
    return float((np.square(points.sum(axis=0)).sum() - count) / (count * (count - 1)))


def _self_bleu(cut: dict[str, list[list[str]]]) -> dict[str, float] | str:
    try:
        return {id: self_bleu(texts) for id, texts in cut.items()}
    except ImportError:
        return needs_package("sacrebleu")


def _some(values: dict[str, float | None]) -> dict[str, float]:
    return {id: value for id, value in values.items() if value is not None}
