"""A regular expression in a stranger's ``classes.yaml`` takes no more than its time and memory."""

from __future__ import annotations

import time

import pytest
from pydantic import ValidationError

from segproto.data.split import SplitConfig, found_in
from segproto.errors import DataError


def test_it_finds_what_re_search_finds() -> None:
    names = ["img_1_val", "train/img_2", "val/3"]
    assert found_in(r"_val$|^val/", names) == [True, False, True]


@pytest.mark.parametrize("pattern", [r"^(a|ab|b|ba)*$", r"^(.*?,){9}P"])
def test_one_that_would_take_years_is_stopped(pattern: str) -> None:
    begin, long = time.monotonic(), ["ab" * 60 + "," * 30 + "!"]
    with pytest.raises(DataError, match=r"val_pattern .*: takes more than 0.2 s on 200 names; write a simpler one"):
        found_in(pattern, long * 200, limit=0.2)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("(((a{1000}){1000}){1000})", "multiply to more than"),
        ("a" * 1001, "at most 1000 characters"),
        ("(", "not a regular expression"),
    ],
)
def test_one_that_would_take_all_memory_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SplitConfig(val_pattern=pattern)
