"""What `methods` shows of the installed methods."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from alignbench.errors import Exit

TEACHING = """\
from pydantic import Field
from alignbench import Label, Method, MethodConfig, Pair, UnpairedPreference

class Teach(Method):
    '''Learns from a teacher.

    Source: here.
    '''

    api = 2
    consumes = (UnpairedPreference,)

    class Config(MethodConfig):
        rate: float = Field(0.1, gt=0)
        '''How fast it learns.'''
        teacher: Label | None = None
        '''Whom it asks.'''

    def align(self, run):
        return run.start
"""


def test_methods_lists_names_versions_and_the_reasons_of_broken_ones(alignbench, rpo, install) -> None:
    install("alignbench-sad", "2.0", modules={"sad_plugin": "import gone"}, methods={"sad": "sad_plugin:Sad"})
    listed = {row["name"]: row for row in json.loads(alignbench("methods", "--json").stdout)}
    assert listed["rpo"]["distribution"] == "alignbench-rpo"
    assert listed["rpo"]["version"] == "0.3.1"
    assert listed["rpo"]["broken"] is None
    reason = "alignbench-sad 2.0 could not be loaded for 'sad': No module named 'gone'"
    assert listed["sad"]["broken"] == reason
    done = alignbench("methods")
    assert done.exit_code == 0
    assert "".join(reason.split()) in "".join(done.stdout.split())


def test_a_method_is_shown_with_what_it_reads_and_its_fields(alignbench, install) -> None:
    install("alignbench-teach", modules={"teach_plugin": TEACHING}, methods={"teach": "teach_plugin:Teach"})
    record = json.loads(alignbench("methods", "teach", "--json").stdout)
    assert record["reads"] == ["UnpairedPreference"]
    assert record["description"].startswith("Learns from a teacher.")
    assert record["fields"][0] == {
        "name": "rate",
        "type": "number",
        "default": 0.1,
        "description": "How fast it learns.",
    }
    shown = alignbench("methods", "teach").stdout
    assert "alignbench-teach 1.0, reads UnpairedPreference" in shown
    assert (
        "\nrate: number, default 0.1\n    How fast it learns.\nteacher: label or none\n    Whom it asks.\n"
        in shown
    )


def test_every_field_of_every_method_is_told_in_words_and_its_description_is_not_squeezed(alignbench) -> None:
    for row in json.loads(alignbench("methods", "--json").stdout):
        for field in row.get("fields", ()):
            assert not re.search(r"alignbench|typing|class |NoneType|Annotated|\[", field["type"]), field
    shown = alignbench("methods", "grpo").stdout
    assert '\nscale: group, batch or none, default "group"\n' in shown
    assert "\nrewards: list of reward function, default []\n" in shown
    line = "    Reward functions, added to the judge's score where one is named: `length`,"
    assert line in shown


def test_methods_and_doctor_go_on_where_metadata_are_wrong_and_tell_what_is(alignbench, install) -> None:
    install("alignbench-odd", modules={"odd_plugin": TEACHING}, methods={"My Method": "odd_plugin:Teach"})
    site = install(
        "alignbench-teach", modules={"teach_plugin": TEACHING}, methods={"teach": "teach_plugin:Teach"}
    )
    (file,) = site.glob("*.dist-info/METADATA")
    file.write_text(file.read_text() + "Requires-Dist: nobody-has-this>=1\n")
    garbled = install("garbled", methods={})
    (points,) = garbled.glob("*.dist-info/entry_points.txt")
    points.write_text("[alignbench.methods]\nno equals sign\n", encoding="utf-8")
    listed = alignbench("methods")
    assert listed.exit_code == 0
    assert "'My Method', which cannot be a name" in listed.stderr
    assert "the entry points of garbled cannot be read" in listed.stderr
    assert "requires nobody-has-this>=1 (not installed)" in alignbench("methods", "teach").stdout
    found = [
        row["message"] for row in json.loads(alignbench("doctor", "--json").stdout) if row["state"] == "bad"
    ]
    assert any("'My Method', which cannot be a name" in text for text in found)
    assert any("the entry points of garbled cannot be read" in text for text in found)
    assert "alignbench-teach requires nobody-has-this>=1 (not installed)" in found


def test_doctor_does_not_count_a_plugin_that_cannot_be_loaded_among_the_good(alignbench, install) -> None:
    install(
        "alignbench-hurt",
        modules={"hurt_plugin": "import nobody_has_this"},
        methods={"hurt": "hurt_plugin:Hurt"},
    )
    done = alignbench("doctor", "--json")
    rows = [row for row in json.loads(done.stdout) if row["name"] == "methods"]
    (good,) = [row["message"] for row in rows if row["state"] == "good"]
    assert "hurt" not in good.split(", ")
    assert "sft" in good.split(", ")
    (bad,) = [row["message"] for row in rows if row["state"] == "bad"]
    assert "could not be loaded for 'hurt'" in bad
    assert done.exit_code == Exit.FAILED


def test_metadata_without_a_version_are_told_in_words(alignbench, install) -> None:
    site = install(
        "alignbench-teach", modules={"teach_plugin": TEACHING}, methods={"teach": "teach_plugin:Teach"}
    )
    (file,) = site.glob("*.dist-info/METADATA")
    file.write_text(
        "".join(line for line in file.read_text().splitlines(True) if not line.startswith("Version"))
    )
    for command in (["methods"], ["methods", "teach"], ["doctor", "--json"]):
        done = alignbench(*command)
        assert "None" not in done.stdout, done.stdout
    assert "of no version" in alignbench("methods", "teach").stdout


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("exo", "Write {method: dpo, loss: exo_pair}."),
        ("sppo", "Write {method: dpo, loss: sppo_hard}."),
        ("simpo", "Write {method: dpo, loss: simpo}."),
        ("bco", "Write {method: kto, loss: bco}."),
        ("dpoo", "Did you mean 'dpo'?"),
        ("cdpo", "Did you mean 'dpo'?"),
        ("pairs", "no installed plugin provides the method 'pairs'. Installed:"),
    ],
)
def test_a_loss_that_is_named_as_a_method_is_told_with_its_field(alignbench, name: str, hint: str) -> None:
    assert hint in " ".join(alignbench("methods", name).stderr.split())


@pytest.mark.parametrize("content", [b"[alignbench.methods]\nno equals sign\n", b"\xff\xfe\x00binary"])
def test_a_process_of_its_own_goes_on_where_entry_points_are_garbled(install, content: bytes) -> None:
    """Libraries read all entry points as they are imported, before alignbench does: pydantic, to find its plugins."""
    site = install("garbled", methods={})
    (points,) = site.glob("*.dist-info/entry_points.txt")
    points.write_bytes(content)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    for command in (["methods"], ["doctor"])[: 1 if content.startswith(b"\xff") else 2]:
        done = subprocess.run(
            [sys.executable, "-c", "from alignbench.cli import app; app()", *command],
            env=environment,
            capture_output=True,
            text=True,
        )
        said = " ".join((done.stdout + done.stderr).split())
        assert "the entry points of garbled cannot be read" in said, said
        assert "dpo" in said


def test_a_distribution_without_metadata_is_told_and_gives_nothing(alignbench, install) -> None:
    site = install("bare", modules={"bare_plugin": TEACHING}, methods={"bare": "bare_plugin:Teach"})
    (file,) = site.glob("*.dist-info/METADATA")
    file.unlink()
    listed = alignbench("methods")
    assert listed.exit_code == 0
    assert "bare-1.0.dist-info has no METADATA" in listed.stderr
    assert alignbench("methods", "bare").exit_code == Exit.PLUGIN
    assert "has no METADATA" in alignbench("doctor", "--json").stdout


def test_a_method_without_rows_and_fields_says_so(alignbench, install) -> None:
    bare = (
        TEACHING.replace("(UnpairedPreference,)", "()").partition("    class Config")[0]
        + "    align = None\n"
    )
    install("alignbench-bare", modules={"bare_plugin": bare}, methods={"bare": "bare_plugin:Teach"})
    shown = alignbench("methods", "bare").stdout
    assert "alignbench-bare 1.0, reads no rows" in shown
    assert shown.endswith("It has no fields of its own.\n")


def test_a_clash_is_listed_with_both_and_an_error_when_it_is_asked_for(alignbench, rpo, install) -> None:
    module = "from rpo_plugin import RPO\n"
    install("alignbench-dup", "9.9", modules={"dup_plugin": module}, methods={"rpo": "dup_plugin:RPO"})
    listed = [row for row in json.loads(alignbench("methods", "--json").stdout) if row["name"] == "rpo"]
    assert {row["distribution"]: row["clashes_with"] for row in listed} == {
        "alignbench-dup": ["alignbench-rpo 0.3.1"],
        "alignbench-rpo": ["alignbench-dup 9.9"],
    }
    done = alignbench("methods", "rpo")
    assert done.exit_code == Exit.PLUGIN
    assert "alignbench-dup 9.9 and alignbench-rpo 0.3.1" in done.stderr
    assert alignbench("methods", "alignbench-dup:rpo").exit_code == 0


def test_a_broken_method_is_an_error_when_it_is_asked_for(alignbench, install) -> None:
    install("alignbench-sad", modules={"sad_plugin": "1 / 0"}, methods={"sad": "sad_plugin:Sad"})
    done = alignbench("methods", "sad")
    assert done.exit_code == Exit.PLUGIN
    assert "ZeroDivisionError: division by zero" in done.stderr


def test_doctor_finds_what_is_missing_and_what_is_there(alignbench, monkeypatch, tmp_path) -> None:
    before = set(sys.modules)
    monkeypatch.setenv("ALIGNBENCH_HOME", str(tmp_path / "not" / "yet" / "there"))
    output = {row["name"]: row for row in json.loads(alignbench("doctor", "--json").stdout)}
    assert output["torch"]["state"] == output["transformers"]["state"] == "good"
    assert output["hub"]["message"].startswith("offline")
    assert "jsonl" in output["data"]["message"]
    assert output["devices"]["state"] in ("good", "note")
    assert "torch" not in set(sys.modules) - before
    assert "GiB free" in output["disk of the store"]["message"]


def test_doctor_says_bad_where_a_library_is_too_old_or_missing(monkeypatch) -> None:
    from importlib import metadata

    from alignbench.cli.doctor import _libraries

    real = metadata.version

    def version(name: str) -> str:
        if name == "peft":
            raise metadata.PackageNotFoundError(name)
        return "2.9.1" if name == "torch" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = {finding.name: finding for finding in _libraries()}
    assert found["torch"].state == found["peft"].state == "bad"
    assert found["torch"].message == "version 2.9.1 is not supported; pip install 'torch>=2.10'"
    assert found["peft"].message.startswith("not installed; pip install 'peft>=")
    assert found["transformers"].state == "good"


def test_doctor_loads_a_model_and_says_what_is_quantised_and_which_paths_are_slower(
    alignbench, monkeypatch
) -> None:
    monkeypatch.setattr("alignbench.cli.doctor._torch", lambda: ())
    output = {row["name"]: row for row in json.loads(alignbench("doctor", "sandbox", "--json").stdout)}
    assert output["weights"]["state"] == output["fast paths"]["state"] == "good"
    assert re.search(
        r"Of [\d,]+ weights \d+\.\d% are quantised, \d+\.\d% get an adapter", output["weights"]["message"]
    )
    assert "model" not in output


def test_doctor_says_why_a_model_cannot_be_a_base(alignbench, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("alignbench.cli.doctor._torch", lambda: ())
    done = alignbench("doctor", str(tmp_path / "none"), "--json")
    assert done.exit_code == Exit.FAILED
    (found,) = (row for row in json.loads(done.stdout) if row["name"] == "model")
    assert found["state"] == "bad"
    assert str(tmp_path / "none") in found["message"]
