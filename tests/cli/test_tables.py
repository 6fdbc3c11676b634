"""Printed tables: names and figures stay whole on a terminal of 80 columns, and nothing is lost on a narrower one."""

from __future__ import annotations

import pytest

from segproto.cli.edit import show
from segproto.cli.runs import results_of
from segproto.cli.show import column_widths, print_table


def figure(mean: float) -> dict[str, float]:
    return {"mean": mean, "std": 0.0123}


def test_variants_of_an_ablation_are_named_in_one_piece(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    row = {"runs": 3, "miou": figure(0.489), "group_overlap": figure(0.123)}
    row |= {"prototypes": figure(144), "prototypes_used": figure(133.3), "group_average": figure(7.4)}
    show({"rows": [{"name": name, **row} for name in ("recipe", "without-entropy")], "file": "x"}, False)
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines())
    for name in ("recipe", "without-entropy"):
        [line] = [line for line in printed.splitlines() if name in line]
        assert line.split() == [name, "3", "48.90", "±", "1.23", "144", "133.3", "7.4", "12.30", "±", "1.23"]


def test_sentences_and_headings_wrap_between_words_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    sentence = "the share of the pixels of the class that the strongest prototypes decide on their own"
    print_table(["metric", "value of the metric", ""], [("faithfulness_deletion_area", "0.123", sentence)])
    lines = capsys.readouterr().out.splitlines()
    assert any("faithfulness_deletion_area" in line and "0.123" in line for line in lines)
    words = " ".join(lines).split()
    assert set(sentence.split()) <= set(words)


@pytest.mark.parametrize("columns", [30, 60, 80, 200])
def test_a_long_path_is_folded_and_not_cut(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    path = "/very/long/" + "abcdefgh/" * 12 + "run"
    print_table(["run", "mIoU %", "seconds"], [(path, "43.21", "1234")])
    printed = capsys.readouterr().out
    lines = printed.splitlines()[3:] if columns == 200 else printed.splitlines()
    assert path in "".join(line.split()[0] for line in lines if line.strip() and line[1] in path)
    assert "43.21" in printed
    assert "1234" in printed


def test_no_room_is_given_away() -> None:
    columns = [["name", "a" * 30], ["mean of all", "48.90 ± 1.23"], ["", "some words " * 9]]
    for room in range(62, 160):
        widths = column_widths(columns, room)
        assert widths[:1] == [30]
        assert sum(widths) + 2 * 3 + 1 <= room
        assert sum(widths) + 2 * 3 + 1 == room or widths == [30, 12, 99]


def test_nothing_to_show_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["a", "b"], [])
    assert capsys.readouterr().out == ""


def test_runs_that_make_maps_and_masks_show_their_figures() -> None:
    stages = {
        "contrast": {"miou": 0.1},
        "cams": {"cam_miou": 0.4, "miou": 0.1},
        "masks": {"mask_miou": 0.5, "miou": 0.2},
    }
    results = results_of(stages["masks"], stages)
    assert results == {"mIoU %": 0.2, "maps, train %": 0.4, "masks, train %": 0.5}
    assert results_of({"miou": 0.3}, {"joint": {"miou": 0.3}}) == {"mIoU %": 0.3}
    assert results_of({}, {"linear": {}}) == {"mIoU %": None}
