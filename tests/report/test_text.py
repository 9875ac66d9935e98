"""Text made harmless, and digits that the interval can bear."""

from __future__ import annotations

import pytest

from alignbench.report import text
from alignbench.results import Estimate


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain\ttext\nin two lines", "plain\ttext\nin two lines"),
        ("\x1b[31mred\x1b]52;c;aGk=\x07", "\\x1b[31mred\\x1b]52;c;aGk=\\x07"),
        ("nul\0", "nul\\x00"),
        ("\x9b31m", "\\x9b31m"),
        ("user\u202egnp.exe", "user\\u202egnp.exe"),
        ("\u2066isolated\u2069", "\\u2066isolated\\u2069"),
        ("line\u2028separator", "line\\u2028separator"),
        ("lone \ud800", "lone \\ud800"),
        ("noncharacter \uffff", "noncharacter \\uffff"),
        ("tag \U000e0041", "tag \\U000e0041"),
        ("windows\r\nline, lone\rreturn", "windows\nline, lone\\x0dreturn"),
        ("日本語 עברית العربية 👩‍🔬", "日本語 עברית العربية 👩‍🔬"),
    ],
)
def test_what_could_steer_a_terminal_is_shown_as_its_escape(given: str, shown: str):
    assert text.visible(given) == shown


def test_a_line_is_one_line():
    assert text.line("  out of\n\nmemory\t at step\u2029 4 ") == "out of memory at step\\u2029 4"


@pytest.mark.parametrize(
    ("value", "ci95", "shown"),
    [
        (0.7312, (0.7189, 0.7435), "0.731 ±0.012"),
        (19.61, (18.9, 20.32), "19.61 ±0.71"),
        (1234.5, (1100.0, 1369.0), "1,234 ±134"),
        (0.5, (0.3, 0.9), "0.50 [0.30, 0.90]"),
        (-0.013, (-0.041, 0.015), "\N{MINUS SIGN}0.013 ±0.028"),
        (0.0, (0.0, 0.0), "0 ±0"),
        (0.00012345, None, "0.000123"),
        (None, None, "n/a"),
    ],
)
def test_a_value_shows_the_digits_that_its_interval_can_bear(value, ci95, shown):
    assert text.estimate(Estimate(value=value, ci95=ci95)) == shown


def test_no_value_is_shown_as_minus_zero():
    assert text.number(-0.0004, 2) == "0.00"
    assert text.signed(-0.0004, 2) == "0.00"
    assert text.signed(0.12, 2) == "+0.12"


def test_a_column_shares_its_decimals_and_survives_numbers_of_every_size():
    column = [Estimate(value=v, ci95=(v - h, v + h)) for v, h in ((0.4, 0.021), (0.6, 0.034), (5.0, 3.0))]
    assert text.decimals(column) == 3
    assert text.decimals([]) == 0
    assert text.decimals([Estimate(value=1e300), Estimate(value=1e-300)]) <= 6


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "n/a"),
        (0.0, "0 s"),
        (0.0113, "11.3 ms"),
        (41.4, "41 s"),
        (59.7, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_times_are_told_in_the_units_that_matter(seconds, shown):
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "n/a"),
        (0, "0"),
        (819, "819"),
        (421_000, "421 k"),
        (999_600, "1.00 M"),
        (12.34, "12.3"),
        (4.2e9, "4.20 G"),
    ],
)
def test_counts_have_three_digits(value, shown):
    assert text.count(value) == shown


def test_sizes_are_binary():
    assert text.size(1_400_000_000) == "1.30 GiB"
    assert text.size(512) == "512 B"


def test_words_are_listed_as_one_says_them():
    assert text.listed([]) == ""
    assert text.listed(["a"]) == "a"
    assert text.listed(["a", "b", "c"]) == "a, b and c"
