"""Centring against a plain mean, and what it removes."""

from __future__ import annotations

import numpy as np
import pytest

import semlens as sl
from semlens.errors import LayerError
from semlens.lenses.centring import centred_vectors, layer_crops, layer_means


@pytest.fixture
def db(tmp_path, subject, images, embedder):
    return sl.build(tmp_path / "db", subject, images, embedder, ["first", "second"], examples=4)


def plain_mean(db, layer):
    """The mean over the distinct crops, in float64."""
    index, used = db.crop_index(layer)
    return np.mean([db.crop_vectors[crop].astype(float) for crop in set(index[used])], axis=0)


def test_the_mean_counts_every_distinct_crop_once(db):
    means = layer_means(db)
    assert list(means) == ["first", "second"]
    for layer, mean in means.items():
        index, used = db.crop_index(layer)
        assert layer_crops(db, layer).tolist() == sorted(set(index[used]))
        np.testing.assert_allclose(mean, plain_mean(db, layer), atol=1e-6)


def test_centred_vectors_in_the_order_of_the_rows_and_zeros_stay_zeros(db):
    second, first = db.rows("second"), db.rows("first")
    rows = np.r_[second[::-1], first]
    got = centred_vectors(db, rows)
    for row, vector in zip(rows, got, strict=True):
        if not db.has_examples[row]:
            assert not vector.any()
            continue
        layer = db.component(int(row)).layer
        expected = db.theta[row].astype(float) - plain_mean(db, layer)
        np.testing.assert_allclose(vector, expected, atol=1e-6)
    assert centred_vectors(db, []).shape == (0, db.manifest.dim)


def test_the_database_is_not_changed(db):
    before = db.theta.copy()
    centred_vectors(db, db.rows())
    np.testing.assert_array_equal(db.theta, before)


def test_unknown_layers_and_rows_are_refused(db):
    with pytest.raises(LayerError, match="no-such"):
        layer_means(db, "no-such")
    with pytest.raises(LayerError, match="Row 9999"):
        centred_vectors(db, [0, 9999])
