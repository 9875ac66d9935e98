"""From messages to token ids: the tokenizer, its chat template checked, one tokenisation for all."""

from __future__ import annotations

import json
from collections.abc import Sequence as Many
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignbench.data import gguf
from alignbench.data.fidelity import Fidelity, answers
from alignbench.errors import ModelError, SecurityError, first_line
from alignbench.recipe import schema
from alignbench.rows import Demonstration, Ids, Message, Pair, Prompt, Ranking, Row, Text
from alignbench.safety import CODE_KEYS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SANDBOX = "sandbox"
SETTING = "model.chat_template"
TODAY = "{%- macro strftime_now(format) -%}26 Jul 2024{%- endmacro -%}"
"""Put before a template that writes the date, or else a run would not give the same bytes tomorrow.

The day is the one that Llama's templates fall back to.
"""


def model_path(model: schema.Model, root: Path) -> str:
    """Return what `model.id` stands for: a folder of the sandbox's base, a local folder, or a hub id.

    `sandbox/early` and `sandbox/middle` are earlier checkpoints of the base's pretraining. A GGUF file stands for
    the folder of its configuration and tokenizer.
    """
    if (file := gguf.file_of(model, root)) is not None:
        return str(gguf.text_folder(file))
    if model.id.partition("/")[0] == SANDBOX:
        from alignbench import sandbox

        known = {SANDBOX: sandbox.MODEL} | {
            f"{SANDBOX}/{name}": at for name, at in sandbox.CHECKPOINTS.items()
        }
        if model.id in known:
            return str(known[model.id])
    local = root / model.id
    return str(local) if local.is_dir() else model.id


def load_tokenizer(model: schema.Model, root: Path = Path()) -> PreTrainedTokenizerFast:
    """Return the base's tokenizer with the recipe's chat template, checked.

    Its `eos_token` is the token that ends a turn in that template, a `pad_token` is set, padding is on the
    left. Raises ModelError where the tokenizer or the template cannot be used, SecurityError where the
    model's files name code to import.
    """
    from transformers import AutoTokenizer

    path = model_path(model, root)
    for file in ("tokenizer_config.json", "config.json"):
        if code := CODE_KEYS.intersection(_json(path, file, model.revision)):
            what = (
                f"rule no-remote-code: {file} of {model.id} names code to import ({', '.join(sorted(code))})"
            )
            raise SecurityError(what, "use a model that is part of transformers")
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=model.revision, trust_remote_code=False)
    except Exception as error:  # the readers of damaged files raise nearly anything
        what = f"the tokenizer of {model.id} cannot be loaded: {first_line(error)}"
        raise ModelError(what, "check model.id, and the network where it is a hub id") from error
    tokenizer.chat_template, source = _template(model, tokenizer.chat_template, root)
    if "strftime_now" in tokenizer.chat_template:
        tokenizer.chat_template = TODAY + tokenizer.chat_template
    tokenizer.eos_token = ending(tokenizer, source).token
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def context(model: schema.Model, root: Path = Path()) -> int | None:
    """Return how many tokens the model can read, or None where its configuration does not say."""
    config = _json(model_path(model, root), "config.json", model.revision)
    config = config.get("text_config", config)
    length = config.get("max_position_embeddings", config.get("n_positions"))
    return length if isinstance(length, int) and length > 0 else None


def check_vocabulary(tokenizer: PreTrainedTokenizerFast, model: schema.Model, root: Path = Path()) -> None:
    """Raise ModelError where the tokenizer has ids that the model's configuration has no embedding for."""
    config = _json(model_path(model, root), "config.json", model.revision)
    rows = config.get("text_config", config).get("vocab_size")
    if isinstance(rows, int) and len(tokenizer) > rows:
        what = f"the tokenizer of {model.id} has {len(tokenizer)} tokens, the model embeds {rows}"
        raise ModelError(what, "use the tokenizer that the model was trained with")


def check_same_vocabulary(models: Many[schema.Model], root: Path = Path()) -> None:
    """Raise ModelError where a model has another vocabulary than the first of them."""
    vocabularies = [load_tokenizer(model, root).get_vocab() for model in models]
    for model, vocabulary in zip(models, vocabularies, strict=True):
        if vocabulary != vocabularies[0]:
            raise other_vocabulary(model.id, models[0].id)


def other_vocabulary(id: str, base: str) -> ModelError:
    """Return the error of a start that is not of the base's vocabulary."""
    return ModelError(f"{id} has another vocabulary than {base}", "use a model of the same family")


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the sha256 of what a tokenizer does: its whole pipeline, and its special tokens."""
    special = json.dumps(tokenizer.special_tokens_map, sort_keys=True, default=str)
    return sha256(f"{tokenizer.backend_tokenizer.to_str()}\n{special}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a chat template ends an answer."""

    token: str
    """The special token that ends a turn; the last of every response."""
    suffix: str
    """All that the template writes after the answer's text."""
    control: frozenset[str] = frozenset()
    """The special tokens that the template writes, and those that begin and end a text."""
    opener: str = ""
    """The words that open an answer, where they hold no special token, as `[/INST]` may."""

    def cut(self, text: str) -> str:
        """Return a rendered conversation up to the end of its last turn, and without what follows it."""
        before, _, _ = self.suffix.partition(self.token)
        return text.removesuffix(self.suffix) + (before if self.token in self.suffix else "") + self.token


def ending(tokenizer: PreTrainedTokenizerFast, source: str = "the chat template") -> Ending:
    """Check a chat template, and return how it ends an answer.

    Raises ModelError, naming `source`, where the template is not valid Jinja, drops turns or roles, begins
    the sequence twice, or writes a prompt differently once its answer follows.
    """
    question, answer, second = "the first question", "the answer", "the second question"
    turns = [
        _turn("user", question),
        _turn("assistant", answer),
        _turn("user", second),
        _turn("assistant", answer),
    ]
    try:
        whole = render(tokenizer, turns)
        prompt = render(tokenizer, turns[:-1], answer=True)
        unopened = render(tokenizer, turns[:-1])
    except Exception as error:  # jinja2's errors, and whatever the template's own expressions raise
        line = f" in line {error.lineno}" if isinstance(getattr(error, "lineno", None), int) else ""  # pyright: ignore[reportAttributeAccessIssue]
        what = f"{source} cannot be rendered: {type(error).__name__}{line}: {first_line(error)}"
        raise ModelError(what, f"correct it, or set another {SETTING}") from error

    def unfit(what: str) -> ModelError:
        return ModelError(f"{source} {what}", f"set {SETTING} to a template that does not")

    ends = []
    for text in (question, answer, second, answer):
        at = whole.find(text, ends[-1] if ends else 0)
        if at < 0:
            raise unfit("drops turns of a conversation")
        ends.append(at + len(text))
    if whole[ends[0] : ends[1] - len(answer)] == whole[ends[1] : ends[2] - len(second)]:
        raise unfit("drops the roles: it writes the same before a turn of the user and one of the assistant")
    if not whole.startswith(prompt):
        raise unfit("writes a prompt differently once its answer follows")
    if prompt == unopened and not whole[len(prompt) :].startswith(answer):
        raise unfit("ignores add_generation_prompt, so that a policy would not know that it is its turn")
    bos = tokenizer.bos_token_id
    if bos is not None and encode(tokenizer, [prompt])[0][:2] == (bos, bos):
        raise unfit(f"begins a sequence with {tokenizer.bos_token} twice")
    suffix = whole[ends[3] :]
    special = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    found = [tokenizer.convert_ids_to_tokens(id) for id in encode(tokenizer, [suffix])[0] if id in special]
    token = found[0] if found else tokenizer.eos_token
    if not isinstance(token, str):
        raise unfit("ends an answer with no special token, while the tokenizer has no eos_token,")
    names = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.init_kwargs.get("eos_token"), token)
    ids = set(encode(tokenizer, [whole])[0])
    marked = {str(one) for id, one in tokenizer.added_tokens_decoder.items() if one.special and id in ids}
    control = frozenset(marked | {str(name) for name in names if name})
    opener = whole[ends[0] : ends[1] - len(answer)].strip()
    plain = len(opener) > 5 and not any(one in opener for one in control)
    return Ending(token, suffix, control, opener if plain else "")


def render(tokenizer: PreTrainedTokenizerFast, turns: Many[Message], *, answer: bool = False) -> str:
    """Return a conversation as the template writes it; with `answer`, opened for the next answer."""
    given = [dict(turn) for turn in turns]
    return str(tokenizer.apply_chat_template(given, tokenize=False, add_generation_prompt=answer))


def open_answer(tokenizer: PreTrainedTokenizerFast, turns: Many[Message], lead: str) -> str:
    """Return a conversation opened for its next answer, which begins with `lead`, in the template's own form.

    What the template writes between the opening and an answer, a space as it may be, stands before `lead`.
    """
    opened = render(tokenizer, turns, answer=True)
    if not lead:
        return opened
    whole = render(tokenizer, [*turns, _turn("assistant", lead)])
    if not whole.startswith(opened):  # an answer is opened in another way than it is written once it is there
        return opened + lead
    at = whole.find(lead, len(opened))
    return whole[: at + len(lead)] if at >= 0 else opened + lead


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str], *, special: bool = False) -> list[Ids]:
    """Return the token ids of each text; a template has written the special tokens, so none are added."""
    if not texts:
        return []
    ids = tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)[
        "input_ids"
    ]
    return [tuple(one) for one in ids]  # pyright: ignore[reportArgumentType, reportReturnType]


def tokenise(rows: Many[Row], tokenizer: PreTrainedTokenizerFast, end: Ending) -> list[Row | str]:
    """Return each row (all of one kind) with token ids and length, or the reason why it can have none.

    A prompt's ids end where the answer starts; a response's ids end with the one token that ends a turn. The
    length is that of the prompt and its longest answer. Raises ModelError where the template writes a prompt
    differently once its answer follows.
    """
    if rows and isinstance(rows[0], Text):
        return [*_tokenise_texts([row for row in rows if isinstance(row, Text)], tokenizer)]
    texts: list[str] = []
    places: list[range | str] = []
    fidelity = Fidelity(lambda turns: render(tokenizer, turns, answer=True), end.control, end.opener)
    for row in rows:
        assert isinstance(row, Prompt)
        try:
            written = _written(row, tokenizer, end)
            reason = fidelity.fault(row, written)
        except ModelError:
            raise
        except Exception as error:  # a template may refuse a system turn, or two turns of one role
            places.append(f"refused by the chat template: {first_line(error)}")
            continue
        if reason:
            places.append(reason)
            continue
        places.append(range(len(texts), len(texts) + len(written)))
        texts += written
    ids = encode(tokenizer, texts)
    stop = tokenizer.convert_tokens_to_ids(end.token)
    done: list[Row | str] = []
    for row, place in zip(rows, places, strict=True):
        if isinstance(place, str):
            done.append(place)
            continue
        prompt, responses = ids[place[0]], []
        for at in place[1:]:
            response = ids[at][len(prompt) :]
            if ids[at][: len(prompt)] != prompt:
                # A token reaches over the border, where a policy that answers the prompt could not write it.
                response = spelled(texts[at].removeprefix(texts[place[0]]), prompt, ids[at], tokenizer)
            responses.append(response)
        if any(response.count(stop) != 1 for response in responses):
            done.append("the token that ends a turn stands inside an answer")
            continue
        done.append(_indistinct(row, responses) or _with_ids(row, prompt, responses))
    return done


def _indistinct(row: Row, responses: Many[Ids]) -> str:
    """Return why answers that have equal token ids make a row useless, or an empty text."""
    if isinstance(row, Pair) and responses[0] == responses[1]:
        return "chosen and rejected have equal token ids"
    if isinstance(row, Ranking) and len(set(zip(responses, row.ranks, strict=True))) > len(set(responses)):
        return "answers with equal token ids have different ranks"
    return ""


def _written(row: Prompt, tokenizer: PreTrainedTokenizerFast, end: Ending) -> list[str]:
    """A row's texts as the model reads them: the prompt, then the prompt with each answer."""
    prompt = render(tokenizer, row.prompt, answer=True)
    wholes = [render(tokenizer, [*row.prompt, _turn("assistant", answer)]) for answer in answers(row)]
    if not all(whole.startswith(prompt) for whole in wholes):
        what = f"the chat template writes the prompt of row {row.id} differently once its answer follows"
        raise ModelError(what, f"set {SETTING} to a template that does not")
    return [prompt, *map(end.cut, wholes)]


def _tokenise_texts(rows: list[Text], tokenizer: PreTrainedTokenizerFast) -> list[Text]:
    """Plain text as it is, after the token that this tokenizer begins every sequence with, if any."""
    done = []
    for row, ids in zip(rows, encode(tokenizer, [row.text for row in rows], special=True), strict=True):
        twice = len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id
        done.append(replace(row, ids=ids[twice:], length=len(ids) - twice))
    return done


def spelled(answer: str, prompt: Ids, whole: Ids, tokenizer: PreTrainedTokenizerFast) -> Ids:
    """The ids of an answer that, after the prompt's, spell the whole text.

    Some tokenizers write a blank before the first word of any text, and so would write one that is not there;
    in the middle of a text they do not.
    """
    (plain,) = encode(tokenizer, [answer])
    spelled = tokenizer.decode(list(whole))
    for before in ("", str(tokenizer.eos_token), "\n"):
        marker, ids = encode(tokenizer, [before, before + answer])
        if ids[: len(marker)] == marker and tokenizer.decode([*prompt, *ids[len(marker) :]]) == spelled:
            return ids[len(marker) :]
    return plain


def _with_ids(row: Row, prompt: Ids, responses: list[Ids]) -> Row:
    length = len(prompt) + max(map(len, responses), default=0)
    ids: dict[str, Any] = {"length": length, "prompt_ids": prompt}
    if isinstance(row, Ranking):
        ids["answer_ids"] = tuple(responses)
    elif isinstance(row, Pair):
        ids["chosen_ids"], ids["rejected_ids"] = responses
    elif isinstance(row, Demonstration):
        (ids["response_ids"],) = responses
    return replace(row, **ids)


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _template(model: schema.Model, own: str | dict[str, str] | None, root: Path) -> tuple[str, str]:
    """Return the chat template that a recipe chooses, and what to call it.

    It is Jinja text, a file, or the name of one of the tokenizer's `own` templates; else the one that the
    tokenizer has, or of several the `default`.
    """
    given, several = model.chat_template, own if isinstance(own, dict) else {}
    names = ", ".join(sorted(several))
    if given is None:
        found = several.get("default") if several else own
        if isinstance(found, str):
            return found, f"the chat template of {model.id}"
        if several:
            what = f"the tokenizer of {model.id} has several chat templates and none is the default: {names}"
            raise ModelError(what, f"set {SETTING} to one of these names")
        what = f"the tokenizer of {model.id} has no chat template"
        raise ModelError(what, f"set {SETTING} to Jinja text or to the path of a file that holds it")
    if given in several:
        return several[given], f"the chat template '{given}' of {model.id}"
    if "{{" in given or "{%" in given:
        return given, SETTING
    try:
        return (root / given).read_text(encoding="utf-8"), f"the chat template {given}"
    except (OSError, UnicodeDecodeError) as error:
        what = f"{SETTING}: '{given}' is neither Jinja text nor a file that can be read"
        also = f", or one of the model's own: {names}" if names else ""
        raise ModelError(what, f"give text with {{{{ }}}}, or a path relative to the recipe{also}") from error


def _json(path: str, file: str, revision: str | None) -> dict[str, Any]:
    """A JSON file of a model's folder or hub repository; empty where there is none or it cannot be had."""
    if Path(path).is_dir():
        found = str(Path(path) / file) if (Path(path) / file).is_file() else None
    else:
        from transformers.utils.hub import cached_file

        try:
            found = cached_file(path, file, revision=revision, _raise_exceptions_for_missing_entries=False)
        except (OSError, ValueError):
            return {}
    if found is None:
        return {}
    try:
        content = json.loads(Path(found).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{found} cannot be read: {first_line(error)}", "get the model again") from error
    return content if isinstance(content, dict) else {}
