"""classes.yaml and the data section of recipes: what they accept, and the line they answer with otherwise."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from segproto.data.classes import EXAMPLES, find_classes, read_classes
from segproto.data.config import AugmentConfig, DataConfig, ScenesConfig, SplitConfig
from segproto.errors import DataError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "classes.yaml"
    path.write_text(text)
    return path


def test_full_form(tmp_path):
    text = """
    classes:
      - {name: road, values: [7, 8], colour: [1, 2, 3]}
      - {name: tree, values: 21}
    void: [0]
    split: {val_pattern: "^a"}
    """
    classes = read_classes(written(tmp_path, text))
    assert classes.labels.table.names == ("road", "tree")
    assert classes.labels.table.colours[0] == (1, 2, 3)
    assert classes.labels.lookup == {7: 0, 8: 0, 21: 1, 0: 255, 255: 255}
    assert classes.split is not None
    assert classes.split.val_pattern == "^a"


def test_short_form_and_255_as_a_class(tmp_path):
    assert read_classes(written(tmp_path, "classes: [a, b]")).labels.lookup == {0: 0, 1: 1, 255: 255}
    text = "classes: [{name: a, values: 0}, {name: b, values: 255}]"
    assert read_classes(written(tmp_path, text)).labels.lookup == {0: 0, 255: 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clases: [a]", "unknown key 'clases'; did you mean 'classes'?"),
        ("classes: [{name: a, value: 1}]", "did you mean 'values'?"),
        ("classes: [a]\nsplit: {val_patern: x}", "did you mean 'val_pattern'?"),
        ("classes: [a]\nsplit: {val_pattern: '('}", "not a regular expression"),
        ("classes: [a]\nsplit: {val_pattern: x, val_fraction: 0.1}", "one rule"),
        ("classes: [a, a]", "'a' occurs twice"),
        ("classes: [{name: a, values: 1}, {name: b, values: [2, 1]}]", "value 1 belongs to both 'a' and 'b'"),
        ("classes: [a, b]\nvoid: [1]", "value 1 belongs to both 'b' and 'void'"),
        ("classes: [{name: a, values: '#00ff00'}]\nvoid: [0]", "numbers or colours"),
        ("classes: [{name: a, values: red}]", "'red' is neither a number"),
        ("classes: []", "at least 1"),
        ("- a", "expected classes:"),
        ("classes: [", "line 1: not YAML"),
        ("classes: [a]\nclasses: [b]", "line 2: not YAML (the key 'classes' twice)"),
    ],
)
def test_mistakes_get_one_line(tmp_path, text, message):
    with pytest.raises(DataError) as caught:
        read_classes(written(tmp_path, text))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "classes.yaml"))
    assert "\n" not in str(caught.value)


def test_shipped_examples_are_found_by_name(tmp_path):
    for name, count in (("dubai_aerial", 5), ("msrc21", 21)):
        classes = read_classes(find_classes(Path(name), tmp_path))
        assert classes.labels.table.num_classes == count
    assert (EXAMPLES / "msrc21_val.txt").is_file()
    with pytest.raises(DataError, match=r"none of the shipped tables \(ade20k, .*msrc21, voc\)"):
        find_classes(Path("dubai"), tmp_path)
    with pytest.raises(DataError, match=r"classes\.yaml: no such file"):
        find_classes(None, tmp_path)


def test_root_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("SOME_ROOT", str(tmp_path))
    assert DataConfig(root="$SOME_ROOT/x").root == tmp_path / "x"
    assert DataConfig(root="~/x").root == Path(os.path.expanduser("~/x"))
    monkeypatch.delenv("SOME_ROOT")
    assert DataConfig(root="$SOME_ROOT/x").root == Path("$SOME_ROOT/x")


def test_config_survives_json():
    config = DataConfig(root="/x", classes="dubai_aerial", split={"val_fraction": 0.3}, augment={"crop": 64})
    assert DataConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DataConfig(nme="em"), "nme"),
        (lambda: DataConfig(name="em", classes="a.yaml"), "em does not read it"),
        (lambda: AugmentConfig(scale=(2, 1)), "smallest, largest"),
        (lambda: ScenesConfig(objects=(3, 2)), "fewest, most"),
        (lambda: SplitConfig(train_folder="a"), "both train_folder and val_folder"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValidationError, match=message):
        make()
