"""Verifiable instructions followed (IFEval, Zhou et al. 2023, arXiv:2311.07911).

The authors' checks, reimplemented without downloads: sentences and words are split by rules instead of a
tokenizer's data. A prompt that requires a language needs the package langdetect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from pydantic import Field

from alignbench.api.config import Sampling, Settings
from alignbench.api.metric import Evidence, Measure, Metric, Missing, Need, Request, by_prompt
from alignbench.metrics.answers import unreadable
from alignbench.rows import Prompt

Check = Callable[[str, Mapping[str, Any]], bool | None]
"""An answer and an instruction's fields -> whether it was followed; None where it cannot be checked here."""

CHOICES = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


class IFEval(Metric):
    """`ifeval`: share of prompts of which every instruction was followed, taken strictly;
    `ifeval.instructions`: mean share of a prompt's instructions."""

    api = 2
    needs: ClassVar[frozenset[Need]] = frozenset({"generations"})
    by_cell: ClassVar[bool] = True

    class Config(Settings):
        """The prompts."""

        prompts: str | None = None
        """The published file `input_data.jsonl`."""
        limit: int | None = Field(default=None, ge=1)
        """Use at most this many."""
        max_new_tokens: int = Field(default=512, ge=1)
        """Longest answer in tokens."""

    def requests(self, root: Path) -> Sequence[Request]:
        if self.config.prompts is None:
            return ()
        prompts = [
            Prompt(id=f"ifeval-{row['key']}", prompt=({"role": "user", "content": row["prompt"]},))
            for row in self._rows(root)
        ]
        greedy = Sampling(temperature=0, max_new_tokens=self.config.max_new_tokens)
        return (Request(tuple(prompts), sampling=greedy),)

    def measure(self, evidence: Evidence) -> list[Measure | Missing]:
        names = ("ifeval", "ifeval.instructions")
        requests = self.requests(evidence.root)
        if not requests:
            reason = "the metric ifeval names no file of prompts"
            return [
                Missing(metric=name, **cell._asdict(), reason=reason)
                for name in names
                for cell in evidence.cells
            ]
        rows = {f"ifeval-{row['key']}": row for row in self._rows(evidence.root)}
        found: list[Measure | Missing] = []
        for cell in evidence.cells:
            answers = evidence.generations(cell, requests[0])
            shares = [followed(rows[one.prompt_id], one.text) for one in answers]
            columns = {
                names[0]: [None if share is None else float(share == 1) for share in shares],
                names[1]: shares,
            }
            checked = sum(share is not None for share in shares)
            found += [
                Measure(
                    metric=name,
                    **cell._asdict(),
                    unit="share",
                    span=(0, 1),
                    higher_is_better=True,
                    values=by_prompt(answers, values),
                    description=f"on {checked} of {len(shares)} prompts, greedy; sentences are split by a rule",
                )
                for name, values in columns.items()
            ]
        return found

    def _rows(self, root: Path) -> list[dict[str, Any]]:
        path = root / self.config.prompts
        try:
            lines = path.read_text(encoding="utf-8").splitlines()[: self.config.limit]
            rows = [json.loads(line) for line in lines]
            unknown = {name for row in rows for name in row["instruction_id_list"]} - set(CHECKS)
            if unknown or any(len(row["kwargs"]) != len(row["instruction_id_list"]) for row in rows):
                raise ValueError(f"unknown instructions: {', '.join(sorted(unknown)) or 'without fields'}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise unreadable(path, str(error), "evaluation.metrics.ifeval.prompts") from error
        return rows


def followed(row: Mapping[str, Any], answer: str) -> float | None:
    """Return the share of a row's instructions that an answer follows; None where one cannot be checked."""
    found = [
        CHECKS[name](answer, {**fields, "prompt": row["prompt"]}) if answer.strip() else False
        for name, fields in zip(row["instruction_id_list"], row["kwargs"], strict=True)
    ]
    return None if None in found else fmean(float(bool(one)) for one in found)


def sentences(text: str) -> int:
    """Return the number of sentences: one ends at punctuation followed by a space and a capital letter."""
    text = re.sub(r"\b(Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e)\.", r"\1", text.strip())
    return len([one for one in re.split(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|\n\s*\n", text) if one])


def _enough(count: int, relation: str | None, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _language(text: str, code: str) -> bool | None:
    try:
        from langdetect import DetectorFactory, LangDetectException, detect  # pyright: ignore
    except ImportError:
        return None
    DetectorFactory.seed = 0
    try:
        return detect(text) == code
    except LangDetectException:
        return True  # as its authors count an undetectable language


def _highlights(text: str, fields: Mapping[str, Any]) -> bool:
    single = [one for one in re.findall(r"\*[^\n\*]*\*", text) if one.strip("*").strip()]
    double = [one for one in re.findall(r"\*\*[^\n\*]*\*\*", text) if one.strip("*").strip()]
    return len(single) + len(double) >= fields["num_highlights"]


def _paragraphs(text: str, fields: Mapping[str, Any]) -> bool:
    parts = re.split(r"\s?\*\*\*\s?", text)
    if any(not one.strip() for one in parts[1:-1]):
        return False
    return sum(bool(one.strip()) for one in parts) == fields["num_paragraphs"]


def _first_word(text: str, fields: Mapping[str, Any]) -> bool:
    parts = text.split("\n\n")
    count, place = sum(bool(one.strip()) for one in parts), fields["nth_paragraph"]
    if place > count or not parts[place - 1].strip():
        return False
    word = re.split(r"[.,?!'\"]", parts[place - 1].split()[0].lstrip("'\""))[0]
    return count == fields["num_paragraphs"] and word.lower() == fields["first_word"].lower()


def _postscript(text: str, fields: Mapping[str, Any]) -> bool:
    marker = fields["postscript_marker"]
    patterns = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    pattern = patterns.get(marker, rf"\s*{marker.lower()}.*$")
    return re.search(pattern, text.lower(), re.MULTILINE) is not None


def _two(text: str, fields: Mapping[str, Any]) -> bool:
    parts = text.split("******")
    if any(not one.strip() for one in parts[1:-1]):
        return False
    kept = [one.strip() for one in parts if one.strip()]
    return len(kept) == 2 and kept[0] != kept[1]


def _json(text: str, fields: Mapping[str, Any]) -> bool:
    inside = re.sub(r"^```(json|Json|JSON)?|```$", "", text.strip()).strip()
    try:
        json.loads(inside)
    except ValueError:
        return False
    return True


def _bullets(text: str, fields: Mapping[str, Any]) -> bool:
    return len(re.findall(r"^\s*\*[^\*].*$|^\s*-.*$", text, re.MULTILINE)) == fields["num_bullets"]


def _letters(text: str, fields: Mapping[str, Any]) -> bool:
    count = text.lower().count(fields["letter"].lower())
    return _enough(count, fields["let_relation"], fields["let_frequency"])


def _keyword(text: str, fields: Mapping[str, Any]) -> bool:
    count = len(re.findall(fields["keyword"].strip(), text, re.IGNORECASE))
    return _enough(count, fields["relation"], fields["frequency"])


def _capitals(text: str, fields: Mapping[str, Any]) -> bool:
    count = sum(word.isupper() for word in re.findall(r"[\w'-]+", text))
    return _enough(count, fields["capital_relation"], fields["capital_frequency"])


def _case(text: str, upper: bool) -> bool | None:
    if not (text.isupper() if upper else text.islower()):
        return False
    return _language(text, "en") is not False


def _none_of(text: str, fields: Mapping[str, Any]) -> bool:
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in fields["forbidden_words"])


def _repeats(text: str, fields: Mapping[str, Any]) -> bool:
    wanted = fields.get("prompt_to_repeat") or fields["prompt"]
    return text.strip().lower().startswith(wanted.strip().lower())


CHECKS: Mapping[str, Check] = {
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": lambda text, _: _case(text, True),
    "change_case:english_lowercase": lambda text, _: _case(text, False),
    "combination:repeat_prompt": _repeats,
    "combination:two_responses": _two,
    "detectable_content:number_placeholders": lambda text, f: (
        len(re.findall(r"\[.*?\]", text)) >= f["num_placeholders"]
    ),
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": lambda text, _: any(one in text for one in CHOICES),
    "detectable_format:json_format": _json,
    "detectable_format:multiple_sections": lambda text, f: (
        len(re.split(rf"\s?{f['section_spliter']}\s?\d+\s?", text)) - 1 >= f["num_sections"]
    ),
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": lambda text, _: any(
        one.strip("<>").strip() for one in re.findall(r"<<[^\n]+>>", text)
    ),
    "keywords:existence": lambda text, f: all(re.search(word, text, re.IGNORECASE) for word in f["keywords"]),
    "keywords:forbidden_words": _none_of,
    "keywords:frequency": _keyword,
    "keywords:letter_frequency": _letters,
    "language:response_language": lambda text, f: _language(text, f["language"]),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": lambda text, f: _enough(
        sentences(text), f["relation"], f["num_sentences"]
    ),
    "length_constraints:number_words": lambda text, f: _enough(
        len(re.findall(r"\w+", text)), f["relation"], f["num_words"]
    ),
    "punctuation:no_comma": lambda text, _: "," not in text,
    "startend:end_checker": lambda text, f: (
        text.strip().strip('"').lower().endswith(f["end_phrase"].strip().lower())
    ),
    "startend:quotation": lambda text, _: (
        len(text.strip()) > 1 and text.strip()[0] == text.strip()[-1] == '"'
    ),
}
"""Checks by the published name of the instruction."""
