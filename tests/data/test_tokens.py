"""Token ids of prompts and answers are those of the chat template."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alignbench.data.tokens import (
    check_vocabulary,
    context,
    encode,
    ending,
    load_tokenizer,
    open_answer,
    render,
    tokenise,
)
from alignbench.errors import Exit, ModelError, SecurityError
from alignbench.recipe.schema import Model
from alignbench.rows import Demonstration, Pair, Prompt, Ranking, Text

from .conftest import CHATML

USER, ASSISTANT = "<|im_start|>user\n", "<|im_start|>assistant\n"


def model(folder: Path, template: str | None = CHATML) -> Model:
    return Model(id=str(folder), chat_template=template)


def talk(*texts: str) -> tuple[dict[str, str], ...]:
    return tuple({"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts))


def test_ids_are_exactly_those_of_the_template(tokenizer_folder: Path):
    tokenizer = load_tokenizer(model(tokenizer_folder))
    prompt = talk("an apple\n\n", "in a tree", "and then?")
    rows = [
        Demonstration(id="1", prompt=prompt, response="an answer"),
        Pair(id="2", prompt=prompt, chosen="fine", rejected="  not \n fine"),
        Ranking(id="3", prompt=prompt, answers=("a", "b", "日本"), ranks=(1, 2, 3)),
    ]
    for row in tokenise(rows, tokenizer, ending(tokenizer)):
        assert isinstance(row, Prompt)
        expected = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
        assert list(row.prompt_ids) == expected
        sequences = row.sequences()  # pyright: ignore[reportAttributeAccessIssue]
        texts = [getattr(row, name) for name in ("response", "chosen", "rejected") if hasattr(row, name)]
        for sequence, text in zip(sequences, texts or row.answers, strict=True):  # pyright: ignore[reportAttributeAccessIssue]
            whole = tokenizer.apply_chat_template([*prompt, *talk("", text)[1:]], return_dict=False)
            newline = encode(tokenizer, ["\n"])[0]
            assert [*sequence.prompt, *sequence.response, *newline] == whole
            assert sequence.response[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
            assert sequence.response.count(sequence.response[-1]) == 1
        assert row.length == max(map(len, sequences))


def test_a_token_across_the_border_is_never_made(tokenizer_folder: Path):
    tokenizer = load_tokenizer(model(tokenizer_folder))
    prompt, answer = talk("q"), "\n\nan"
    asked = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template([*prompt, *talk("", answer)[1:]], return_dict=False)
    assert whole[: len(asked)] != asked  # the template's line end and the answer's first become one token
    (row,) = tokenise([Demonstration(id="1", prompt=prompt, response=answer)], tokenizer, ending(tokenizer))
    assert isinstance(row, Demonstration)
    assert list(row.prompt_ids) == asked
    assert tokenizer.decode(row.response_ids) == f"{answer}<|im_end|>"


def test_the_end_of_turn_is_the_end_of_sequence_and_pad_may_equal_it(tokenizer_folder: Path):
    tokenizer = load_tokenizer(model(tokenizer_folder))
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|im_end|>"
    assert tokenizer.padding_side == "left"
    assert context(model(tokenizer_folder)) == 128


def test_a_template_that_writes_no_end_gets_the_tokenizers_own(tokenizer_folder: Path):
    plain = (
        "{% for m in messages %}{{ '\\n\\n' + m.role + ': ' + m.content }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '\\n\\nassistant: ' }}{% endif %}"
    )
    tokenizer = load_tokenizer(model(tokenizer_folder, plain))
    (row,) = tokenise([Demonstration(id="1", prompt=talk("q"), response="yes")], tokenizer, ending(tokenizer))
    assert isinstance(row, Demonstration)
    assert tokenizer.decode(row.response_ids) == "yes<|endoftext|>"
    assert tokenizer.decode(row.prompt_ids) == "\n\nuser: q\n\nassistant: "


def test_an_answer_that_holds_the_end_of_turn_is_dropped(tokenizer_folder: Path):
    tokenizer = load_tokenizer(model(tokenizer_folder))
    rows = [Pair(id="1", prompt=talk("q"), chosen="a<|im_end|>b", rejected="c")]
    assert tokenise(rows, tokenizer, ending(tokenizer)) == [
        "the special token <|im_end|> stands inside an answer"
    ]


@pytest.mark.parametrize("token", ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<s>"])
def test_a_turn_that_holds_a_special_token_of_the_template_is_dropped(token: str, tokenizer_folder: Path):
    tokenizer = load_tokenizer(model(tokenizer_folder))
    row = Demonstration(id="1", prompt=talk(f"a {token} b"), response="c")
    assert tokenise([row], tokenizer, ending(tokenizer)) == [
        f"the special token {token} stands inside a turn"
    ]
    plain = Demonstration(id="1", prompt=talk("a <think> b"), response="<b>c</b>")
    assert not isinstance(tokenise([plain], tokenizer, ending(tokenizer))[0], str)


def test_plain_text_is_taken_as_it_is(tokenizer_folder: Path):
    tokenizer = load_tokenizer(model(tokenizer_folder))
    (row,) = tokenise([Text(id="1", text="an apple")], tokenizer, ending(tokenizer))
    assert isinstance(row, Text)
    assert tokenizer.decode(row.ids) == "an apple"


STRIPS = CHATML.replace("message['content'] }}", "message['content'].split('</think>')[-1] }}", 1)
KEEPS_USER = CHATML.replace(
    "message['content'] }}",
    "message['content'].split('</think>')[-1] if message['role'] == 'assistant' else message['content'] }}",
    1,
)


def test_an_answer_that_the_template_writes_in_part_is_a_dropped_row(tokenizer_folder: Path):
    tokenizer = load_tokenizer(model(tokenizer_folder, STRIPS))
    rows = [
        Pair(id="1", prompt=talk("q"), chosen="<think>why</think>a", rejected="<think>how</think>a"),
        Demonstration(id="2", prompt=talk("q"), response="a"),
    ]
    reason, kept = (tokenise([row], tokenizer, ending(tokenizer))[0] for row in rows)
    assert reason == "the chat template drops part of an answer: its <think> part"
    assert isinstance(kept, Demonstration)


@pytest.mark.parametrize(
    ("template", "question", "opener"),
    [
        (
            "{% for m in messages %}### {{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}### assistant: {% endif %}",
            "### user: q\n### assistant:",
            "### assistant:",
        ),
        (
            "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
            "{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
            "[INST] q [/INST]",
            "[/INST]",
        ),
    ],
)
def test_a_prompt_that_was_written_in_the_template_before_is_dropped(
    template: str, question: str, opener: str, tokenizer_folder: Path
):
    tokenizer = load_tokenizer(model(tokenizer_folder, template))
    rows = [
        Demonstration(id=text, prompt=talk(text), response="a") for text in (question, "the assistant: q")
    ]
    reason, kept = tokenise(rows, tokenizer, ending(tokenizer))
    assert reason == f"the words {opener} that open an answer stand inside a turn"
    assert isinstance(kept, Demonstration)


def test_an_answer_that_the_prompt_holds_too_must_stand_after_it(tokenizer_folder: Path):
    tokenizer = load_tokenizer(model(tokenizer_folder, KEEPS_USER))
    answer = "<think>why</think>a"
    row = Demonstration(id="1", prompt=talk(f"Repeat: {answer}"), response=answer)
    assert tokenise([row], tokenizer, ending(tokenizer)) == [
        "the chat template drops part of an answer: its <think> part"
    ]


def test_an_answer_may_begin_with_what_the_template_opens_it_with(tokenizer_folder: Path):
    opened = CHATML.replace("assistant\n{% endif", "assistant\n<think>\n{% endif").replace(
        "{{ message['content'] }}",
        "{% if message['role'] == 'assistant' and not message['content'].startswith('<think>') %}"
        "<think>\n{% endif %}{{ message['content'] }}",
        1,
    )
    tokenizer = load_tokenizer(model(tokenizer_folder, opened))
    row = Demonstration(id="1", prompt=talk("q"), response="<think>\nwhy</think>a")
    (kept,) = tokenise([row], tokenizer, ending(tokenizer))
    assert isinstance(kept, Demonstration)
    assert tokenizer.decode(kept.response_ids) == "why</think>a<|im_end|>"


def test_white_space_inside_an_answer_is_part_of_it(tokenizer_folder: Path):
    joined = CHATML.replace("message['content'] }}", "message['content'].split() | join(' ') }}", 1)
    tokenizer = load_tokenizer(model(tokenizer_folder, joined))
    row = Demonstration(id="1", prompt=talk("q"), response="def f():\n    return 1\n")
    assert tokenise([row], tokenizer, ending(tokenizer)) == [
        "the chat template drops part of an answer: its white space"
    ]


def test_earlier_answers_that_lose_their_thoughts_are_named(tokenizer_folder: Path):
    tokenizer = load_tokenizer(model(tokenizer_folder, STRIPS))
    row = Demonstration(id="1", prompt=talk("q", "<think>why</think>a", "next"), response="b")
    assert tokenise([row], tokenizer, ending(tokenizer)) == [
        "the chat template drops part of a turn: the assistant's"
    ]


def test_a_turn_that_is_passed_over_is_seen_though_its_words_stand_elsewhere(tokenizer_folder: Path):
    template = CHATML.replace("messages %}", "messages if message['role'] != 'system' %}", 1)
    tokenizer = load_tokenizer(model(tokenizer_folder, template))
    row = Demonstration(id="1", prompt=({"role": "system", "content": "user"}, *talk("q")), response="a")
    assert tokenise([row], tokenizer, ending(tokenizer)) == ["the chat template drops a turn: the system's"]


def test_a_template_may_write_other_white_space_round_the_parts_of_an_answer(tokenizer_folder: Path):
    spaced = CHATML.replace(
        "message['content'] }}", "message['content'].replace('</think>', '\\n</think>\\n') }}", 1
    )
    tokenizer = load_tokenizer(model(tokenizer_folder, spaced))
    row = Demonstration(id="1", prompt=talk("q"), response="<think>why</think>a")
    assert not isinstance(tokenise([row], tokenizer, ending(tokenizer))[0], str)


def test_answers_that_differ_only_in_text_are_a_dropped_row(tokenizer_folder: Path):
    tokenizer = load_tokenizer(
        model(tokenizer_folder, CHATML.replace("['content'] }}", "['content'] | trim }}"))
    )
    rows = [
        Pair(id="1", prompt=talk("q"), chosen="a", rejected="a "),
        Ranking(id="2", prompt=talk("q"), answers=("a", "b", "a\n"), ranks=(1, 2, 3)),
    ]
    assert [tokenise([row], tokenizer, ending(tokenizer))[0] for row in rows] == [
        "chosen and rejected have equal token ids",
        "answers with equal token ids have different ranks",
    ]


def test_of_several_templates_the_default_is_taken_or_the_one_that_is_named(
    tokenizer_folder: Path, tmp_path: Path
):
    folder = tmp_path / "named"
    shutil.copytree(tokenizer_folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    other = CHATML.replace("<|im_start|>", "<|im_start|>the ")

    def write(**templates: str) -> None:
        listed = [{"name": name, "template": text} for name, text in templates.items()]
        text = json.dumps({**config, "chat_template": listed})
        (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")

    write(default=CHATML, tool_use=other)
    assert load_tokenizer(model(folder, None)).chat_template == CHATML
    assert load_tokenizer(model(folder, "tool_use")).chat_template == other
    with pytest.raises(ModelError, match="or one of the model's own: default, tool_use"):
        load_tokenizer(model(folder, "rag"))
    write(rag=CHATML, tool_use=other)
    with pytest.raises(
        ModelError, match=r"none is the default: rag, tool_use; set model.chat_template to one"
    ):
        load_tokenizer(model(folder, None))


def test_a_tokenizer_with_more_tokens_than_the_model_embeds_is_refused(
    tokenizer_folder: Path, tmp_path: Path
):
    folder = tmp_path / "small"
    shutil.copytree(tokenizer_folder, folder)
    (folder / "config.json").write_text('{"text_config": {"vocab_size": 64}}', encoding="utf-8")
    tokenizer = load_tokenizer(model(folder))
    check_vocabulary(
        tokenizer, model(tokenizer_folder)
    )  # where the configuration does not say, nothing is refused
    with pytest.raises(ModelError, match=r"has \d+ tokens, the model embeds 64"):
        check_vocabulary(tokenizer, model(folder))


# F32
ROLES = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
TURNS = "{{ messages[0].role + messages[0].content }}{% if add_generation_prompt %}:{% endif %}"
AGAIN = CHATML.replace(
    "{% for message", "{% if messages[-1].role == 'user' %}Question:{% endif %}{% for message", 1
)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, r"the tokenizer of .* has no chat template; set model.chat_template to Jinja text"),
        (
            "{% for m in messages %}{{ m.content }}",
            r"model.chat_template cannot be rendered: TemplateSyntaxError in line 1",
        ),
        ("{{ messages[0].nothing.at_all }}", r"model.chat_template cannot be rendered: UndefinedError"),
        (ROLES, r"model.chat_template drops the roles"),
        (TURNS, r"model.chat_template drops turns of a conversation"),
        (AGAIN, r"model.chat_template writes a prompt differently once its answer follows"),
        ("<s><s>{{ '' }}" + CHATML, r"model.chat_template begins a sequence with <s> twice"),
        (CHATML.split("{% if add_gen")[0], r"model.chat_template ignores add_generation_prompt"),
        ("templates/none.jinja", r"'templates/none.jinja' is neither Jinja text nor a file that can be read"),
    ],
)
def test_a_template_that_cannot_be_trusted_stops_everything(
    template: str | None, message: str, tokenizer_folder: Path
):
    with pytest.raises(ModelError, match=message) as raised:
        load_tokenizer(model(tokenizer_folder, template))
    assert raised.value.exit_code is Exit.USAGE
    assert "model.chat_template" in str(raised.value)


def test_a_template_that_rewrites_only_some_prompts_is_caught_at_the_row(tokenizer_folder: Path):
    template = CHATML.replace("{% for", "{% if messages | length == 5 %}!{% endif %}{% for", 1)
    tokenizer = load_tokenizer(model(tokenizer_folder, template))
    rows = [Demonstration(id="seven", prompt=talk("a", "b", "c", "d", "e"), response="f")]
    with pytest.raises(ModelError, match="the prompt of row seven differently once its answer follows"):
        tokenise(rows, tokenizer, ending(tokenizer))


def test_a_conversation_that_the_template_refuses_is_a_dropped_row(tokenizer_folder: Path):
    template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
    )
    tokenizer = load_tokenizer(model(tokenizer_folder, template))
    system = Demonstration(id="1", prompt=({"role": "system", "content": "s"}, *talk("q")), response="a")
    assert tokenise([system], tokenizer, ending(tokenizer)) == [
        "refused by the chat template: no system role"
    ]


def test_a_turn_that_the_template_passes_over_is_a_dropped_row(tokenizer_folder: Path):
    template = CHATML.replace("messages %}", "messages if message['role'] != 'system' %}", 1)
    tokenizer = load_tokenizer(model(tokenizer_folder, template))
    system = Demonstration(
        id="1", prompt=({"role": "system", "content": "be kind"}, *talk("q")), response="a"
    )
    assert tokenise([system], tokenizer, ending(tokenizer)) == [
        "the chat template drops a turn: the system's"
    ]


def test_a_template_that_writes_the_date_writes_the_same_one_every_day(tokenizer_folder: Path):
    template = "{{ strftime_now('%d %b %Y') }}\n" + CHATML
    tokenizer = load_tokenizer(model(tokenizer_folder, template))
    assert render(tokenizer, talk("q")).startswith("26 Jul 2024\n")


def test_a_template_may_come_from_a_file_beside_the_recipe(tokenizer_folder: Path, tmp_path: Path):
    (tmp_path / "chat.jinja").write_text(CHATML, encoding="utf-8")
    assert load_tokenizer(model(tokenizer_folder, "chat.jinja"), tmp_path).chat_template == CHATML


def test_a_template_runs_no_code(tokenizer_folder: Path, tmp_path: Path):
    canary = tmp_path / "canary"
    hostile = "{{ cycler.__init__.__globals__.os.mknod('CANARY') }}".replace("CANARY", str(canary))
    with pytest.raises(ModelError, match="cannot be rendered: SecurityError"):
        load_tokenizer(model(tokenizer_folder, hostile))
    assert not canary.exists()


def test_a_tokenizer_that_wants_to_run_code_is_refused(tokenizer_folder: Path, tmp_path: Path):
    folder = tmp_path / "hostile"
    shutil.copytree(tokenizer_folder, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoTokenizer": ["evil.Tokenizer", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')", encoding="utf-8")
    with pytest.raises(SecurityError, match="no-remote-code"):
        load_tokenizer(model(folder))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("damage", [b"", b"{", b'{"version": "9.9"}'], ids=["empty", "torn", "unknown"])
def test_a_damaged_tokenizer_is_named(damage: bytes, tokenizer_folder: Path, tmp_path: Path):
    folder = tmp_path / "damaged"
    shutil.copytree(tokenizer_folder, folder)
    (folder / "tokenizer.json").write_bytes(damage)
    with pytest.raises(ModelError, match=r"the tokenizer of .*damaged cannot be loaded"):
        load_tokenizer(model(folder))


def test_the_sandbox_is_a_model_like_any_other():
    tokenizer: Any = load_tokenizer(Model(id="sandbox"))
    (row,) = tokenise([Prompt(id="1", prompt=talk("name a person ."))], tokenizer, ending(tokenizer))
    assert isinstance(row, Prompt)
    assert tokenizer.convert_ids_to_tokens(row.prompt_ids[0]) == "<bos>"


def test_a_real_tokenizer_without_template_takes_one(shared: Path):
    path = shared / "models/stories260K"
    with pytest.raises(ModelError, match="has no chat template"):
        load_tokenizer(model(path, None))
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content }}"
        "{{ eos_token if m.role == 'assistant' else '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    tokenizer = load_tokenizer(model(path, template))
    (row,) = tokenise(
        [Demonstration(id="1", prompt=talk("Once"), response="upon a time")], tokenizer, ending(tokenizer)
    )
    assert isinstance(row, Demonstration)
    whole = tokenizer.apply_chat_template([*row.prompt, *talk("", "upon a time")[1:]], return_dict=False)
    assert tokenizer.decode([*row.prompt_ids, *row.response_ids]) == tokenizer.decode(whole)
    assert row.response_ids[-1] == tokenizer.eos_token_id
    assert context(model(path)) == 512


def test_importing_the_data_package_loads_nothing_heavy():
    heavy = ["torch", "transformers", "pyarrow", "datasets", "numpy"]
    code = f"import sys, alignbench.data; print([name for name in {heavy} if name in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


SPACED = (
    "{% for m in messages %}[{{ m.role }}]: {{ m.content | trim }}"
    "{% if m.role == 'assistant' %}<end>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("template", "wanted"),
    [
        (CHATML, ASSISTANT + "So it is"),
        (SPACED + "{% if add_generation_prompt %}[assistant]:{% endif %}", "[user]: q[assistant]: So it is"),
        (
            SPACED + "{% if add_generation_prompt %}[assistant]: <think></think>{% endif %}",
            "<think></think>So it is",
        ),
    ],
)
def test_a_begun_answer_stands_as_the_template_writes_answers(
    template: str, wanted: str, tokenizer_folder: Path
):
    tokenizer = load_tokenizer(model(tokenizer_folder))
    tokenizer.chat_template = template
    turns = talk("q")
    opened = render(tokenizer, turns, answer=True)
    assert open_answer(tokenizer, turns, "") == opened
    text = open_answer(tokenizer, turns, "So it is")
    assert text.startswith(opened)
    assert text.endswith(wanted)
