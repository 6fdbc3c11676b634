"""Names with line ends, escape codes and text that turns around reach no terminal as they are."""

from __future__ import annotations

import io
import pickle
import sys
import warnings
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segproto.cli.main import main, one_line
from segproto.cli.show import print_table, say
from segproto.data.picture import read_image
from segproto.errors import ConfigError, DataError, plain
from segproto.training.progress import Reporter

NAME = "a\x1b[31m\x1b]0;title\x07\n\r\x08b\x9b2J\u202ecod\u2028\udcff.png"
SHOWN = r"a\x1b[31m\x1b]0;title\x07\n\r\x08b\x9b2J\u202ecod\u2028\udcff.png"


def test_what_is_shown_of_a_name() -> None:
    assert plain(NAME) == SHOWN
    assert plain("Zürich 東京 \u3000 é 👩\u200d🔬 ±") == "Zürich 東京 \u3000 é 👩\u200d🔬 ±"


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_one_line_that_can_be_written_and_moves_nothing(text: str) -> None:
    shown = plain(text)
    assert shown.splitlines() in ([], [shown])
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in shown)
    shown.encode()


def test_lines_tables_and_errors(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"written to {NAME}")
    say(NAME, err=True)
    print_table(["class", NAME], [(NAME, "[red]:warning: 1")], title=NAME)
    Reporter().line(NAME)
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert "\x1b" not in text
        assert r"\x1b" in text
        assert all(c == "\n" or c >= " " for c in text)
    assert "[red]:warning: 1" in shown.out
    assert one_line(DataError(f"{NAME}: broken")) == f"{SHOWN}: broken"
    assert one_line(OSError(2, "No such file", NAME)) == f"{SHOWN}: No such file"


def test_several_problems_are_a_line_each() -> None:
    error = ConfigError("a = 1: no", f"{NAME}: unknown key")
    assert str(error).startswith("a = 1: no\na")
    assert one_line(error) == f"a = 1: no\n{SHOWN}: unknown key"
    assert one_line(pickle.loads(pickle.dumps(error))) == one_line(error)


class Terminal(io.StringIO):
    """A terminal that keeps what it is sent."""

    def isatty(self) -> bool:
        return True


def test_bars_show_names_and_obey_none(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with Reporter().bar(f"[bold]{NAME}", 2) as bar:
        bar.note(NAME)
        bar.part(NAME, 1, 2)
    sent = terminal.getvalue()
    assert "\x1b]0;title" not in sent
    assert "\x9b2J" not in sent
    assert "[bold]" in sent


def test_arguments_and_files_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / NAME
    file.write_text("no picture")
    for arguments in (
        ["predict", "--bogus" + NAME],
        ["predict", NAME, NAME, "--out", "o"],
        ["data", "verify", NAME],
        [NAME],
    ):
        monkeypatch.setattr(sys, "argv", ["segproto", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert "\x1b" not in error
        assert r"\x1b[31m" in error
    with pytest.raises(DataError) as refused:
        read_image(file)
    assert one_line(refused.value) == f"{plain(file)}: {str(refused.value).rpartition('.png: ')[2]}"
    with warnings.catch_warnings(record=True):
        assert "\x1b" not in str(one_line(refused.value))
