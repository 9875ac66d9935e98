"""Where rows come from: plugins, files, folders and hub ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignbench.data.sources import Hub, Parquet
from alignbench.errors import DataError, PluginError
from alignbench.recipe.named import open_source, resolve
from alignbench.recipe.schema import Named
from alignbench.rows import Pair, Ranking, UnpairedPreference

from .conftest import WriteRows, pairs, problems


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sandbox", ("sandbox", {})),
        ("data.jsonl", ("jsonl", {"path": "data.jsonl"})),
        ("rows", ("jsonl", {"path": "rows"})),
        ("rows/more.json", ("jsonl", {"path": "rows/more.json"})),
        ("table.parquet", ("parquet", {"path": "table.parquet"})),
        ("Anthropic/hh-rlhf", ("hub", {"id": "Anthropic/hh-rlhf"})),
    ],
)
def test_a_name_stands_for_a_plugin_a_file_a_folder_or_a_hub_id(name: str, expected: Any, tmp_path: Path):
    (tmp_path / "rows").mkdir()
    for file in ("data.jsonl", "rows/more.json", "table.parquet"):
        (tmp_path / file).touch()
    assert resolve(Named(name=name), tmp_path) == expected


def test_fields_of_the_source_are_kept(tmp_path: Path):
    named = Named.model_validate({"Anthropic/hh-rlhf": {"split": "test"}})
    assert resolve(named, tmp_path) == ("hub", {"id": "Anthropic/hh-rlhf", "split": "test"})


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "missing.jsonl",
            DataError,
            "missing.jsonl: there is no such file; relative paths start from the recipe's",
        ),
        ("./missing", DataError, "there is no such file"),
        ("notes.txt", DataError, "no reader for '.txt' files; use .jsonl or .parquet"),
        ("rows.csv", DataError, r"no reader for '.csv' files; write it with pandas.read_csv\('rows.csv'"),
        ("rows.jsonl.gz", DataError, "no reader for '.gz' files; unpack it first"),
        ("empty", DataError, "empty: the folder holds no .jsonl or .parquet file"),
        ("mixed", DataError, "mixed: the folder holds jsonl and parquet files; name one file"),
        ("sandbocks", PluginError, "Did you mean 'sandbox'"),
    ],
)
def test_a_name_that_stands_for_nothing_is_an_error(
    name: str, error: type[Exception], message: str, tmp_path: Path
):
    for file in ("notes.txt", "rows.csv", "rows.jsonl.gz"):
        (tmp_path / file).touch()
    for folder, files in (("empty", ()), ("mixed", ("a.jsonl", "b.parquet"))):
        (tmp_path / folder).mkdir()
        for file in files:
            (tmp_path / folder / file).touch()
    with pytest.raises(error, match=message):
        resolve(Named(name=name), tmp_path)


def test_a_folder_is_read_in_the_order_of_names(write: WriteRows, tmp_path: Path):
    (tmp_path / "rows").mkdir()
    write(pairs(3)[2:], "rows/b.jsonl")
    write([*pairs(2), {"prompt": 1}], "rows/a.jsonl")
    with pytest.raises(DataError, match=r"^rows/a\.jsonl:3"):
        list(open_source(Named(name="rows"), tmp_path).rows("train", None, 0))
    write(pairs(2), "rows/a.jsonl")
    rows = open_source(Named(name="rows"), tmp_path).rows("train", None, 0)
    assert [row.chosen for row in rows if isinstance(row, Pair)] == [
        "good answer 0",
        "good answer 1",
        "good answer 2",
    ]


def test_a_folder_of_splits_is_never_mixed_up(write: WriteRows, tmp_path: Path):
    (tmp_path / "rows").mkdir()
    for name in ("train.jsonl", "test.jsonl"):
        write(pairs(2), f"rows/{name}")
    with pytest.raises(
        DataError, match=r"files of several splits \(test, train\); name a file each in data.train"
    ):
        open_source(Named(name="rows"), tmp_path).view()


def parquet(tmp_path: Path, rows: list[dict[str, Any]]) -> Parquet:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data.parquet")
    return Parquet(Parquet.Config(path="data.parquet"), root=tmp_path)


def test_parquet_gives_the_same_rows_as_json_lines(write: WriteRows, tmp_path: Path):
    talk = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    records = [{"prompt": talk[:1], "completion": talk[1:], "label": True, "user": "u"}]
    write(records)
    found = list(parquet(tmp_path, records).rows("train", None, 0))
    assert found == list(open_source(Named(name="data.jsonl"), tmp_path).rows("train", None, 0))
    assert parquet(tmp_path, records).view() is UnpairedPreference


def test_what_the_datasets_library_writes_beside_rows_is_no_row(tmp_path: Path):
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "dataset_infos.json").write_text('{"default": {}}', encoding="utf-8")
    (folder / "package.json").write_text("{\n}", encoding="utf-8")
    (folder / "part.jsonl").write_text(json.dumps(pairs(1)[0]), encoding="utf-8")
    assert len(list(open_source(Named(name="rows"), tmp_path).rows("train", None, 0))) == 1


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("saved/data-00000-of-00001.arrow", "saved/state.json"), "written by `save_to_disk` .*to_parquet"),
        (("saved/train/data-00000-of-00001.arrow", "saved/dataset_dict.json"), "written by `save_to_disk`"),
        (("saved/data/train-0.parquet", "saved/dataset_infos.json"), "name one of them: saved/data"),
        (("saved/dataset_info.json",), "the folder holds no .jsonl or .parquet file"),
    ],
)
def test_a_folder_of_another_kind_is_named_for_what_it_is(
    files: tuple[str, ...], message: str, tmp_path: Path
):
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        open_source(Named(name="saved"), tmp_path)


def test_a_number_that_is_none_is_refused_in_a_table_as_in_json(tmp_path: Path):
    ranked = {"prompt": "q", "answers": ["a", "b", "c"], "ranks": [1.0, 2.0, float("nan")]}
    error = problems(parquet(tmp_path, [{**ranked, "ranks": [1.0, 2.0, 3.0]}, ranked]))
    assert str(error).startswith("data.parquet:2: ranks: not a list of numbers (one is nan)")
    scored = {"prompt": "q", "answers": ["a", "b"], "scores": [float("inf"), 1.0]}
    assert "scores: not a list of numbers" in str(problems(parquet(tmp_path, [scored])))


def test_a_column_without_a_number_is_no_reason_to_refuse_a_table(tmp_path: Path):
    (row,) = parquet(tmp_path, [{**pairs(1)[0], "score": float("nan")}]).rows("train", None, 0)
    assert row.extra["score"] is None


def test_messages_that_a_table_fills_with_nulls_are_read(tmp_path: Path):
    empty = {"role": None, "content": None, "tool_calls": None}
    turn = {**empty, "from": "human", "value": "q"}
    record = {"prompt": [turn], "completion": "a", "tools": None, "preference": None, "system": None}
    (row,) = parquet(tmp_path, [record]).rows("train", None, 0)
    assert row.prompt == ({"role": "user", "content": "q"},)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_bad_parquet_row_is_named_by_its_number(tmp_path: Path):
    error = problems(parquet(tmp_path, [*pairs(3), {**pairs(1)[0], "chosen": None}]))
    assert str(error).startswith("data.parquet:4: chosen: null, not a value")


def test_a_file_that_is_no_parquet_is_said_so(tmp_path: Path):
    (tmp_path / "data.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=r"data.parquet: not a readable Parquet file"):
        list(Parquet(Parquet.Config(path="data.parquet"), root=tmp_path).rows("train", None, 0))


def test_a_hub_data_set_that_cannot_be_reached_says_what_to_do():
    with pytest.raises(
        DataError, match=r"nobody/nothing-at-all could not be fetched: .*; check the id, the network"
    ):
        list(Hub(Hub.Config(id="nobody/nothing-at-all")).rows("train", None, 0))


def test_a_data_set_of_the_datasets_library_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "someone" / "hh"
    folder.mkdir(parents=True)
    talk = "\n\nHuman: Hello\n\nAssistant: {}"
    rows = [{"chosen": talk.format(f"fine {n}"), "rejected": talk.format("no")} for n in range(3)]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    hub = Hub(Hub.Config(id="someone/hh"))
    found = [row for row in hub.rows("train", None, 0) if isinstance(row, Pair)]
    assert [row.chosen for row in found] == ["fine 0", "fine 1", "fine 2"]
    assert hub.facts == {"id": "someone/hh", "split": "train"}
    with pytest.raises(
        DataError, match=r"someone/hh could not be read: .*; check the names of its configuration"
    ):
        list(Hub(Hub.Config(id="someone/hh", split="nothing")).rows("train", None, 0))


def test_the_sandbox_knows_its_own_splits(tmp_path: Path):
    source = open_source(Named(name="sandbox"), tmp_path)
    train, again, test = (list(source.rows(split, 5, 0)) for split in ("train", "train", "test"))
    assert source.owns_splits
    assert source.view() is Ranking
    assert train == again
    assert {row.id for row in train}.isdisjoint(row.id for row in test)
    assert list(source.rows("train", 3, 0)) == train[:3]
    assert all({"user", "annotator", "group", "topic"} <= set(row.extra) for row in train)


def test_a_pointer_in_place_of_a_parquet_file_is_named(tmp_path: Path):
    (tmp_path / "rows.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n")
    with pytest.raises(DataError, match="not a readable Parquet file: a pointer of Git LFS; fetch"):
        open_source(Named(name="rows.parquet"), tmp_path).view()


def test_a_column_of_bytes_is_named(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"prompt": [b"q"], "completion": ["a"]}), tmp_path / "rows.parquet")
    with pytest.raises(DataError, match="prompt: bytes, not a text"):
        list(open_source(Named(name="rows.parquet"), tmp_path).rows("train", None, 0))
