"""The data of a comparison: sources give rows, which are filtered, split and tokenised once for all."""

from __future__ import annotations

from alignbench.data.contract import RowFilter, Source
from alignbench.data.prepare import prepare
from alignbench.data.sources import open_source, resolve
from alignbench.data.table import Table, TableRows, open_table
from alignbench.data.tokens import load_tokenizer

__all__ = [
    "RowFilter",
    "Source",
    "Table",
    "TableRows",
    "load_tokenizer",
    "open_source",
    "open_table",
    "prepare",
    "resolve",
]
