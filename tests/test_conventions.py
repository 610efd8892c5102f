"""One way to name classes, layers, components, images, concepts and databases in every question."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import numpy as np
import pytest
from conftest import LittleNet, WordEmbedder, assert_says, to_tensor
from PIL import Image

import semlens as sl
from semlens.concept_database import ConceptDatabase
from semlens.data.image_folder import ImageFolder
from semlens.errors import ConceptError, DataError, LayerError, RecipeError, StaleError
from semlens.lens import lens, lens_of
from semlens.lenses.result import plain
from semlens.models.subject import SubjectModel
from semlens.progress import progress_listener
from semlens.run.plan import Execution
from semlens.settings import settings_of

LISTS = {"valid": ["dog", "cat"], "spurious": ["text", "grass"]}
CLASSES = ["class0", "class1", "fruit", "other"]


def subject(seed: int = 0) -> SubjectModel:
    return SubjectModel(LittleNet(seed), to_tensor, "32 bilinear", f"python:little{seed}", CLASSES)


@pytest.fixture(scope="module")
def databases(tmp_path_factory, pictures):
    folder = tmp_path_factory.mktemp("conventions")
    return [
        sl.build(
            folder / f"db{seed}", subject(seed), ImageFolder(pictures), WordEmbedder(),
            ["first", "second"], examples=4, relevance=True,
        )
        for seed in (0, 1)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def db(databases):
    return databases[0]


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "picture.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def questions():
    methods = {name: getattr(ConceptDatabase, name) for name in dir(ConceptDatabase)}
    return {name: method for name, method in methods.items() if lens_of(method) is not None}


def test_every_question_is_a_function_and_a_method_of_the_same_name_and_parameters():
    found = questions()
    assert {"search", "label", "explain", "effect", "audit", "compare", "affected"} <= set(found)
    for name, asked in found.items():
        assert getattr(ConceptDatabase, name) is asked, name
        first = next(iter(inspect.signature(asked).parameters))
        assert first in ("database", "databases"), name


def test_settings_have_a_text_and_defaults_that_they_allow():
    for name, asked in questions().items():
        for one in settings_of(asked).values():
            assert one.field.description, (name, one.name)
            if one.default is not inspect.Parameter.empty and one.default is not None:
                one.check(name, one.default)


@pytest.mark.slow
def test_a_class_goes_by_name_or_number(db, image):
    named, numbered = (db.explain(image, target=t, concepts=None) for t in ("fruit", 2))
    assert named.target == numbered.target
    for target in ("class1", 1, "1"):
        assert db.effect(target, top=2, samples=3).target == 1
        assert db.unexpected(target, ["dog"]).target == 1


@pytest.mark.slow
def test_an_image_is_a_path_or_a_picture(db, image):
    path, picture = db.explain(image, concepts=None), db.explain(Image.open(image))
    np.testing.assert_allclose(path.heat, picture.heat, atol=1e-6)
    hits = db.search(images=image, top=3)  # one item where several may be
    assert hits.components == db.search(images=[Image.open(image)], top=3).components


@pytest.mark.slow
def test_components_are_names_objects_or_an_answer(db):
    hits = db.search("dog", top=2)
    names = [str(component) for component in hits.components]
    assert db.rows_of(hits) == db.rows_of(names) == db.rows_of(hits.components)
    assert db.rows_of(names[0]) == db.rows_of(hits)[:1]
    assert db.show(hits).tobytes() == db.show(names).tobytes()
    model = db.model
    one = sl.pruned_state(model, ["second:3"])
    assert not np.array_equal(one["head.weight"], model.module.state_dict()["head.weight"])
    same = sl.pruned_state(model, sl.Component("second", 3))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    found = db.effect("class0", names, samples=3)
    assert plain(found.to_json()) == plain(db.effect("class0", hits, samples=3).to_json())


def test_layers_are_a_name_or_several_never_its_characters(db):
    assert len(db.scores(layers="second").to_pandas()) == 20
    assert db.scores(layers="second").to_pandas().equals(db.scores(["second"]).to_pandas())
    with pytest.raises(LayerError, match="'ab'"):
        db.scores(layers="ab")
    with pytest.raises(LayerError, match="'ab'"):
        db.search("dog", layers="ab")


@pytest.mark.slow
def test_concepts_are_a_list_a_mapping_a_path_or_a_name(db, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(LISTS))
    made = sl.ConceptSet.of(**LISTS)
    forms = [path, str(path), LISTS, made, [made], [path]]
    answers = [db.audit("class0", form, threshold=-1.0, resamples=0) for form in forms]
    frames = [answer.to_pandas() for answer in answers]
    assert all(frame.equals(frames[0]) for frame in frames)
    assert {c.kind for c in made.concepts} == {"valid", "spurious"}
    flat = db.label(["dog", "bird"], threshold=-9.0)
    labels = flat.to_pandas()["label"]
    words = {word for label in labels for word in label.removeprefix("mixed: ").split(", ")}
    assert words - {"mixed"} <= {"dog", "bird"}
    nested = db.label({"Animals": ["dog", "bird"]}, threshold=-9.0)
    assert set(nested.to_pandas()["category"].dropna()) == {"Animals"}
    assert db.label("paper-ox").concepts.name == "paper-ox"
    with pytest.raises(ConceptError) as error:
        db.label("paper-oks")
    assert_says(error.value, "paper-oks", "paper-ox", ".toml")


@pytest.mark.slow
def test_databases_are_several_or_a_list(databases):
    a, b = databases
    listed = a.compare(b).to_pandas()
    assert listed.equals(a.compare(b).to_pandas())
    assert listed.equals(a.compare(b).to_pandas())
    assert a.dissect(concepts=["dog", "car"]).databases == ["db0"]
    assert a.dissect(b, concepts=["dog", "car"]).databases == ["db0", "db1"]


def test_a_wrong_setting_is_told_with_what_is_expected(db):
    with pytest.raises(RecipeError) as error:
        db.audit("class0", LISTS, minimum=2)
    assert_says(error.value, "'minimum' of 'audit' is 2", "a number from 0 to 1", "another minimum")
    with pytest.raises(RecipeError, match="'top' of 'search' is -1"):
        db.search("dog", top=-1)
    for text in (str(error.value), str(error.value.remedy)):
        assert "--" not in text, "Python users know no options"


def test_a_boolean_or_a_text_is_no_number_and_a_number_no_boolean(db):
    checked = 0
    for name, asked in questions().items():
        for one in settings_of(asked).values():
            if one.expected.startswith(("Expected a number", "Expected a whole")):
                wrong, right = (True, np.True_, "1"), (1, np.int64(500), np.float64(0.25))
            elif one.expected == "Expected True or False.":
                wrong, right = (1, 0, "no", None), (True, False, np.True_)
            else:
                continue
            for value in wrong:
                with pytest.raises(RecipeError, match=f"'{one.name}' of '{name}'"):
                    one.check(name, value)
            accepted = [value for value in right if accepts(one, value)]
            assert accepted, (name, one.name)
            checked += 1
    assert checked > 40
    for settings, known in (
        (sl.Recipe, {"examples": np.int64(5), "crop_blur": 0, "thumbnails": np.True_}),
        (sl.Training, {"epochs": np.int64(5), "learning_rate": np.float32(0.5), "flip": False}),
    ):
        assert settings(**known) == settings(**{k: v.item() if isinstance(v, np.generic) else v
                                                for k, v in known.items()})  # fmt: skip
        for name, value in known.items():
            for wrong in ("1", 1 if value in (True, False) and name != "crop_blur" else True):
                with pytest.raises(RecipeError, match=f"^{name} is '{wrong}'. Expected "):
                    settings(**{name: wrong})


@pytest.mark.parametrize("value", [0, -1, True])
def test_a_batch_size_is_a_whole_number(value):
    with pytest.raises(RecipeError, match=f"The batch size is {value}."):
        Execution(value)


def accepts(setting, value):
    try:
        setting.check("question", value)
    except RecipeError:
        return False
    return True


def test_samples_are_a_number_or_numbers_and_no_mask(db):
    right = db.effect(1, top=2, samples=[0, 2]).samples.tolist()
    assert right == db.effect(1, top=2, samples=np.array([0, 2])).samples.tolist() == [0, 2]
    mask = [True, False, True]
    for wrong in (mask, np.array(mask), np.array([0.5, 1.5]), True, 0, -1):
        with pytest.raises(DataError, match="samples"):
            db.effect(1, top=2, samples=wrong)
    with pytest.raises(DataError, match="samples"):
        db.contrast(mask)


def test_sources_come_with_the_database(db, pictures):
    again = sl.open(db.path, model=subject(), images=pictures, embedder=WordEmbedder())
    assert again.model.fingerprint == db.model.fingerprint
    sample = db.examples_of(0)[0].sample
    assert again.images.read(sample).tobytes() == db.images.read(sample).tobytes()
    assert again.search("dog").hits == db.search("dog").hits
    with pytest.raises(StaleError, match="model"):
        sl.open(db.path, model=subject(seed=3))


def test_an_image_that_has_changed_is_refused_when_it_is_read(db, tmp_path, pictures):
    import shutil

    copy = tmp_path / "pictures"
    shutil.copytree(pictures, copy)
    moved = sl.open(db.path, images=copy)
    name = moved.images.ids[3]
    Image.new("RGB", (30, 30), (9, 9, 9)).save(copy / name)
    moved.images.read(2)
    with pytest.raises(StaleError, match=name):
        moved.images.read(3)


def test_a_vocabulary_is_embedded_once_per_database_and_kept(db):
    words = [f"word{place}" for place in range(150)]
    told: list[tuple[str, int, int]] = []
    with progress_listener(lambda *at: told.append(at)):
        first = db.label(words, threshold=-9.0)
    assert ("embedding texts", 600, 600) in told

    class Deaf(WordEmbedder):
        def _texts(self, texts):
            assert set(texts) <= {"", "-like", "a ", "an image of a close up of "}, texts
            return super()._texts(texts)

    other = Deaf()
    other.fingerprint = db.embedder.fingerprint
    from semlens.lenses import query_embedding

    query_embedding._embed_cached.cache_clear()
    again = sl.open(db.path, embedder=other).label(words, threshold=-9.0)
    np.testing.assert_array_equal(first.score, again.score)


def test_long_work_shows_its_progress_in_python(capsys):
    from semlens import progress

    @lens()
    def count(database: int) -> int:
        for place in range(3):
            progress.report_progress("counting", place + 1, 3)
        return database

    with progress.progress_bars(delay=0.0):
        assert count(3) == 3
    assert "counting: 3" in capsys.readouterr().err
    assert lens_of(count).needs == ()


def test_without_a_terminal_what_remains_is_printed_every_ten_seconds(capsys, monkeypatch):
    from semlens import progress

    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.progress_bars({"collect": 4, "crop": 0}, delay=0.0):
        for now[0], stage, done in [
            (0.0, "collect", 0), (10.0, "collect", 1), (15.0, "collect", 2), (21.0, "collect", 3),
            (28.0, "collect", 4), (28.0, "crop", 0),
        ]:  # fmt: skip
            progress.report_progress(stage, done, 4)
    assert capsys.readouterr().err.splitlines() == [
        "1/2 running the model: 4",
        "1/2 running the model: 1/4, 10 s, 30 s left",
        "1/2 running the model: 3/4, 21 s, 7 s left",
        "2/2 cropping examples: 4",
    ]


def test_stages_that_overlap_are_told_in_one_line_with_the_least_time_in_all(capsys, monkeypatch):
    """40 images; collecting them takes 1 s each, and so class relevance takes 40 s or more."""
    from semlens import progress

    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    # the images were hashed before anything was shown
    planned = {"hash": 40, "collect": 40, "crop": 0, "embed": 0, "relate": 40}
    with progress.progress_bars(planned, delay=0.0):
        for now[0], stage, done, total in [
            (0.0, "collect", 0, 40), (10.0, "collect", 10, 40), (40.0, "collect", 40, 40),
            (41.0, "crop", 5, 30), (41.0, "embed", 0, 30), (50.0, "embed", 2, 30),
            (51.0, "embed", 4, 30), (51.0, "crop", 15, 30), (52.0, "embed", 6, 30),
            (62.0, "crop", 25, 30), (63.0, "crop", 30, 30), (63.5, "embed", 30, 30),
            (64.0, "relate", 0, 40), (84.0, "relate", 10, 40),
        ]:  # fmt: skip
            progress.report_progress(stage, done, total)
    assert capsys.readouterr().err.splitlines() == [
        "2/5 running the model: 40",
        "2/5 running the model: 10/40, 10 s, 30 s left, at least 1 min 10 s in all",
        "3/5 cropping examples: 30",
        "4/5 embedding examples: 30",
        # five images were cropped before: 20 in 21 s; embedding, 6 in 11 s
        "3/5 cropping examples: 5/30; 4/5 embedding examples: 4/30, 10 s, 1 min 05 s left, "
        "at least 1 min 45 s in all",
        "3/5 cropping examples: 25/30; 4/5 embedding examples: 6/30, 21 s, 44 s left, "
        "at least 1 min 24 s in all",
        "5/5 class relevance: 40",
        "5/5 class relevance: 10/40, 20 s, 1 min 00 s left",
    ]


CALLS = """
import semlens as sl

db = sl.open("demo.semlens")
reveal_type(db.audit("ox"))
reveal_type(db.prune("layer4:3"))
reveal_type(db.search("dog", top=3))
db.audit(target=1.5)
db.search("dog", tops=3)
"""


@pytest.mark.slow
def test_a_type_checker_sees_what_callers_may_give(tmp_path):
    pytest.importorskip("pyright")
    file = tmp_path / "calls.py"
    file.write_text(CALLS)
    ran = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", file],
        capture_output=True, text=True,
    )  # fmt: skip
    found = json.loads(ran.stdout)["generalDiagnostics"]
    types = [one["message"] for one in found if one["severity"] == "information"]
    assert [text.rpartition(" is ")[2] for text in types] == ['"Audit"', '"PrunedModel"', '"Hits"']
    errors = [(one["range"]["start"]["line"], one["rule"]) for one in found if "rule" in one]
    assert errors == [(7, "reportArgumentType"), (8, "reportCallIssue")]
