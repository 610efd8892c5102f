"""From class names to logits: by name or WordNet id, never by order, never by guess."""

from __future__ import annotations

import unicodedata

import pytest

from semlens.data.class_mapping import (
    UNLABELLED,
    map_targets,
    name_targets,
    read_classes,
    read_targets,
)
from semlens.errors import DataError
from semlens.models.model_libraries import imagenet_classes, imagenet_synsets

CLASSES = ["tench", "great white shark", "crane", "ox", "crane"]
SYNSETS = ["n01440764", "n01484850", "n02012849", "n02403003", "n03126707"]


def test_names_and_wordnet_ids():
    targets = ["Great_White-Shark", "n01440764", "TENCH", "n03126707", "ox"]
    mapped = map_targets(targets, 5, CLASSES, SYNSETS)
    assert mapped.logits == (1, 0, 0, 4, 3)
    assert mapped.notice == ""


def test_a_name_of_two_logits_is_not_guessed():
    mapped = map_targets(["crane", "ox", "yeti"], 3, CLASSES, SYNSETS)
    assert mapped.logits == (None, 3, None)
    assert "2 of 3 classes" in mapped.notice
    assert "(crane, yeti)" in mapped.notice
    assert "pass 'classes'" in mapped.notice
    assert map_targets(["crane"], 1, CLASSES, SYNSETS, {"Crane": 4}).logits == (4,)


def test_imagenet_has_two_cranes_and_all_synsets():
    classes, synsets = imagenet_classes(), imagenet_synsets()
    assert len(classes) == len(synsets) == 1000
    assert classes[0] == "tench" and synsets[0] == "n01440764"
    twice = sorted({name for name in classes if classes.count(name) > 1})
    assert "crane" in twice
    assert map_targets(twice, len(twice), classes, synsets).logits == (None,) * len(twice)
    assert map_targets(synsets, 1000, classes, synsets).logits == tuple(range(1000))


def test_without_classes_nothing_is_mapped_by_order():
    assert map_targets(None, 2, CLASSES, None).logits == (None, None)
    mapped = map_targets(["0", "a"], 2, None, None)
    assert mapped.logits == (None, None)
    assert "2 of 2" in mapped.notice
    many = map_targets([str(i) for i in range(9)], 9, None, None)
    assert "0, 1, 2, 3, 4 ..." in many.notice


def test_the_number_of_targets_must_fit():
    with pytest.raises(DataError) as caught:
        map_targets(["a"], 2, CLASSES, None)
    assert "1 targets for 2 images" in str(caught.value)
    assert "one per image" in str(caught.value)
    assert "Pass one class name" in str(caught.value)


def test_labels_to_names():
    assert name_targets([0, -1, None], ["a"], "x") == ["a", "(no label)", "(no label)"]
    assert name_targets([-1, None], ["a"], "x") is None
    assert name_targets([3, "b"], None, "x") == ["3", "b"]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.json", '{"cat": 3, "dog": 0}', {"cat": 3, "dog": 0}),
        ("a.json", '["cat", "dog"]', {"cat": 0, "dog": 1}),
        ("a.json", '["crane", "ox", "crane"]', {"ox": 1}),
        ("a.csv", "cat,3\ndog, 0\n\n", {"cat": 3, "dog": 0}),
        ("a.csv", "name,logit\ncat,3\n", {"cat": 3}),
        ("a.csv", '\ufeff"ox, wild",7\n', {"ox, wild": 7}),
        ("a.txt", "cat,3\ndog,0", {"cat": 3, "dog": 0}),
        ("a.txt", "cat\nwild ox\n", {"cat": 0, "wild ox": 1}),
        ("a.txt", "crane, bird\ncrane, machine\n", {"crane, bird": 0, "crane, machine": 1}),
        ("a.txt", "crane\nox\ncrane\n", {"ox": 1}),
        ("a.txt", "cat\nox\n\n\n", {"cat": 0, "ox": 1}),
        ("a.json", '["cat", "", "dog", ""]', {"cat": 0, "dog": 2}),
        ("a.csv", "ox,1\nOx,1\n", {"ox": 1, "Ox": 1}),
    ],
)
def test_class_files(tmp_path, name, text, expected):
    (tmp_path / name).write_text(text, "utf-8")
    assert read_classes(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", '{"cat": "first"}'),
        ("a.json", '{"cat": 1.5}'),
        ("a.json", '{"cat": -1}'),
        ("a.json", "{"),
        ("a.json", "7"),
        ("a.csv", "cat,0\ndog,-1"),
        ("a.csv", "cat,0\ndog,one"),
    ],
)
def test_wrong_class_files(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as caught:
        read_classes(tmp_path / name)
    assert f"Cannot read classes from '{tmp_path / name}'" in str(caught.value)
    assert "CSV lines 'name,logit'" in str(caught.value)
    assert "Fix the file" in str(caught.value)
    with pytest.raises(DataError, match="No such file"):
        read_classes(tmp_path / "gone.json")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "red\n\ngreen\n", "Line 2 of .* is empty"),
        ("a.txt", "\nred\n", "Line 1 of .* is empty"),
        ("a.txt", "# fruit\nred\n", "Line 1 of .* looks like a comment: # fruit"),
        ("a.txt", "red\n// rest\nblue", "Line 2 of .* looks like a comment"),
        ("a.csv", "caf\u00e9;0\nox;1\n", "Line 1 of .* separates by ';'"),
        ("a.csv", "ox,1\nOx,2\n", "maps 'Ox' to the logits 1 and 2"),
        ("a.csv", "wild-ox,1\nwild_ox,0\n", "maps 'wild_ox' to the logits 1 and 0"),
        ("a.json", '{"ox": 1, "ox": 2}', "maps 'ox' to the logits 1 and 2"),
        ("a.json", '{"\u00e9": 1, "e\u0301": 2}', "to the logits 1 and 2"),
        ("a.csv", "0,cat\n", "it maps no class"),
        ("a.json", "{}", "it maps no class"),
    ],
)
def test_class_files_that_leave_a_logit_open_are_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, "utf-8")
    with pytest.raises(DataError, match=said):
        read_classes(tmp_path / name)


def test_composed_and_decomposed_letters_are_the_same():
    composed = ["caf\u00e9", "\u00c4pfel", "\uac00"]
    decomposed = [unicodedata.normalize("NFD", name) for name in composed]
    assert decomposed != composed
    for names, classes in ((composed, decomposed), (decomposed, composed)):
        assert map_targets(names, 3, classes, None).logits == (0, 1, 2)
        assert map_targets(names, 3, None, None, {n: 5 for n in classes}).logits == (5, 5, 5)


def test_a_class_with_two_logits_is_refused():
    with pytest.raises(DataError, match="to the logits 1 and 2"):
        map_targets(["ox"], 1, None, None, {"ox": 1, "OX": 2})


def test_target_files_that_contradict_themselves_are_refused(tmp_path):
    path = tmp_path / "targets.csv"
    path.write_text("e\u0301.png,cat\na.png,\n\u00e9.png,cat\n", "utf-8")
    assert read_targets(path, ["\u00e9.png", "a.png", "e\u0301.png"]) == ["cat", UNLABELLED, "cat"]
    path.write_text("a.png,cat\na.png,dog\n")
    with pytest.raises(DataError, match="Line 2 of .* says that 'a.png' is 'dog'.* 'cat'"):
        read_targets(path, ["a.png"])


def test_target_files(tmp_path):
    path = tmp_path / "targets.csv"
    path.write_text('path,target\na/1.png,cat\n"b, c.png", wild dog\n')
    assert read_targets(path, ["b, c.png", "a/1.png"]) == ["wild dog", "cat"]
    with pytest.raises(DataError) as caught:
        read_targets(path, ["a/1.png", "x.png", "y.png"])
    assert "no line for 2 images (first: x.png)" in str(caught.value)
    assert "relative to the data folder" in str(caught.value)
    assert "Add the missing lines" in str(caught.value)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="Cannot read.*Expected CSV lines"):
        read_targets(path, ["a"])
    with pytest.raises(DataError, match="No such file"):
        read_targets(tmp_path / "gone.csv", ["a"])
