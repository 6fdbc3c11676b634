"""classes.yaml and the data section of recipes: what they accept, and the line they answer with otherwise."""

import os
from pathlib import Path

import numpy as np
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


def test_ranges_triples_and_rest(tmp_path):
    text = "classes: [{name: a, values: 1000-1999}, {name: b, values: [3, 5..7]}]\nrest: void"
    labels = read_classes(written(tmp_path, text)).labels
    assert {labels.lookup[v] for v in (1000, 1500, 1999)} == {0}
    assert [labels.lookup.get(v) for v in (3, 4, 5, 7, 2000)] == [1, None, 1, 1, None]
    stored = np.array([[1200, 3, 9, 40000, 0]], np.int64)
    assert labels.apply(stored, "x").tolist() == [[0, 1, 255, 255, 255]]
    assert labels.apply(np.array([[3, 9]], np.uint8), "x").tolist() == [[1, 255]]
    other = read_classes(written(tmp_path, text.replace("void", "b"))).labels
    assert other.apply(stored, "x").tolist() == [[0, 1, 1, 1, 1]]
    assert other.key != labels.key
    triples = 'classes: [{name: a, values: [[0, 255, 0]]}, {name: b, values: "1, 2, 3"}]\nrest: nearest'
    labels = read_classes(written(tmp_path, triples)).labels
    assert labels.lookup == {0x00FF00: 0, 0x010203: 1}
    assert labels.apply(np.array([[0x00FF00, 0x10EE10, 0x000000]], np.int64), "x").tolist() == [[0, 0, 1]]


def test_nearest_number_is_by_difference_for_bytes_and_for_wide_values(tmp_path):
    labels = read_classes(
        written(tmp_path, "classes: [{name: a, values: 0}, {name: b, values: 255}]\nrest: nearest")
    ).labels
    values = np.arange(256)
    expected = (values > 127.5).astype(int).tolist()
    assert labels.apply(values.astype(np.uint8), "x").tolist() == expected
    assert labels.apply(values.astype(np.int64), "x").tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: [yes, no]", 'YAML reads yes, on and true as true: quote the word, "yes"'),
        ("classes: [{name: no, values: 1}]", 'quote the word, "no"'),
        ("classes:\n- {name: a, values: #00ff00}", 'not quoted begins a comment: quote colours, "#00ff00"'),
        ("classes:\n- name: a\n  values: #00ff00", 'YAML takes what follows # for a comment; quote colours: "#00ff00"'),
        ("classes: [2024, 2025]", 'quote the name: "2024"'),
        ("classes: [{name: a, values: [0, 0, 0]}]", 'is it a colour? Write [[0, 0, 0]] or "#RRGGBB"'),
        ('classes: [{name: a, values: [1, 2, 3]}, {name: b, values: "#000000"}]', "Write [[1, 2, 3]]"),
        ("classes: [{name: a, values: 9-3}]", "'9-3' is not FIRST-LAST within 0..65535"),
        ("classes: [a]\nrest: b", "rest: 'b' is neither void nor nearest nor the name of a class"),
    ],
)
def test_traps_of_yaml_are_explained(tmp_path, text, message):
    with pytest.raises(DataError) as caught:
        read_classes(written(tmp_path, text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
