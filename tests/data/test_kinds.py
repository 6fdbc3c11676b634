"""The table of kinds of data set: names are checked everywhere by it, and what a kind does not read is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

import segproto
from segproto.data.config import OPTIONAL, DataConfig
from segproto.data.published_sets import PUBLISHED
from segproto.data.table import DATASETS
from segproto.errors import ConfigError, DataError
from segproto.runs.settings import resolve
from segproto.table import Table


def test_names_come_from_the_table() -> None:
    assert DataConfig.model_json_schema()["properties"]["name"]["enum"] == list(DATASETS)
    assert [row["name"] for row in segproto.data_sets()] == list(DATASETS)
    assert set(PUBLISHED) == {name for name, kind in DATASETS.items() if kind.published is not None}
    with pytest.raises(DataError, match="data set 'camvit' is unknown; did you mean camvid"):
        segproto.data_sets("camvit")


def test_a_wrong_name_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^data.name = 'scene': no data set has this name; did you mean scenes\?$"):
        resolve("blackbox/scenes", {}, ["data.name=scene"])


@pytest.mark.parametrize("key", OPTIONAL)
def test_what_a_kind_does_not_read_is_refused(key: str) -> None:
    value = {"split": {"val_fraction": 0.5}, "layout": "pictures"}.get(key, "a")
    for name, kind in DATASETS.items():
        if key in kind.reads:
            assert getattr(DataConfig.model_validate({"name": name, key: value}), key) is not None
        else:
            with pytest.raises(ValidationError, match=f"{key} is for name: .*; {name} does not read it"):
                DataConfig.model_validate({"name": name, key: value})


def test_masks_are_where_the_kind_has_some() -> None:
    assert DataConfig(name="folder").has_masks
    assert not DataConfig(name="folder", labels=None).has_masks
    assert not DataConfig(name="images").has_masks
    with pytest.raises(ValidationError, match="labels = null: is for name: folder"):
        DataConfig(name="scenes", labels=None)


class Entry:
    """What an installed package may offer."""

    def __init__(self, name: str) -> None:
        self.name = name


def test_entry_points_of_installed_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "offers.py").write_text("from test_kinds import Entry\nTHERE, SAME = Entry('there'), Entry('own')\n")
    (tmp_path / "offers-1.dist-info").mkdir()
    (tmp_path / "offers-1.dist-info" / "METADATA").write_text("Name: offers\nVersion: 1\n")
    (tmp_path / "offers-1.dist-info" / "entry_points.txt").write_text(
        "[segproto.test]\nthere = offers:THERE\nown = offers:SAME\ngone = offers:GONE\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "test_kinds", sys.modules[__name__])
    table: Table[Entry] = Table("thing", [Entry("own")], "segproto.test")
    assert "own" in table
    assert "offers" not in sys.modules  # nothing is looked for before it is asked for
    assert list(table) == ["own", "there"]
    assert table.find("there").name == "there"
    assert "gone = offers:GONE cannot be used" in caplog.text
    assert "'own' is shipped with segproto" in caplog.text
    with pytest.raises(ConfigError, match="thing 'ther' is unknown; did you mean there"):
        table.find("ther")
