"""Losses of margins and overlaps against formulas in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    ShapeError,
    dice_coeff_loss,
    hinge_loss,
    siamese_contrastive_loss,
    squared_hinge_loss,
    tversky_loss,
)

rng = np.random.default_rng(0)
SCORES = rng.normal(size=(5, 3))
SIGNS = rng.choice([-1, 1], size=(5, 3))
P = rng.random((5, 3))
BITS = rng.integers(2, size=(5, 3))

CASES = {
    hinge_loss: (SCORES, SIGNS, lambda ŷ, y: np.maximum(0, 1 - ŷ * y)),
    squared_hinge_loss: (SCORES, SIGNS, lambda ŷ, y: np.maximum(0, 1 - ŷ * y) ** 2),
    siamese_contrastive_loss: (
        P * 2, BITS, lambda ŷ, y: (1 - y) * ŷ**2 + y * np.maximum(0, 1 - ŷ) ** 2
    ),
}  # fmt: skip
WHOLE = {
    dice_coeff_loss: lambda ŷ, y, s=1: (
        1 - (2 * np.sum(y * ŷ) + s) / (np.sum(y**2) + np.sum(ŷ**2) + s)
    ),
    tversky_loss: lambda ŷ, y, b=0.7: (
        1 - (np.sum(y * ŷ) + 1) / (np.sum(y * ŷ + b * (1 - y) * ŷ + (1 - b) * y * (1 - ŷ)) + 1)
    ),
}
LOSSES = [*CASES, *WHOLE]


@pytest.mark.parametrize("loss", CASES)
def test_losses_of_margins_are_those_of_the_formulas(loss):
    y_hat, y, formula = CASES[loss]
    np.testing.assert_allclose(loss(y_hat, y), formula(y_hat, y).mean())
    np.testing.assert_allclose(loss(y_hat, y, agg=lambda each: each), formula(y_hat, y))


@pytest.mark.parametrize("loss", WHOLE)
def test_losses_of_overlaps_are_those_of_the_formulas(loss):
    np.testing.assert_allclose(loss(P, BITS), WHOLE[loss](P, BITS))
    option = {"smooth": 0.3} if loss is dice_coeff_loss else {"beta": 0.3}
    np.testing.assert_allclose(loss(P, BITS, **option), WHOLE[loss](P, BITS, 0.3))


def test_full_overlap_costs_nothing():
    assert dice_coeff_loss(BITS, BITS) == 0
    assert tversky_loss(BITS, BITS) == 0


@pytest.mark.parametrize("margin", [0, 0.5, 2])
def test_the_margin_is_how_far_apart_others_are_wanted(margin):
    expected = np.mean((1 - BITS) * P**2 + BITS * np.maximum(0, margin - P) ** 2)
    np.testing.assert_allclose(siamese_contrastive_loss(P, BITS, margin=margin), expected)


def test_the_margin_is_not_negative():
    with pytest.raises(ValueError, match="siamese_contrastive_loss expects a margin from 0"):
        siamese_contrastive_loss(P, BITS, margin=-1)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("jit", [False, True])
def test_a_compiled_loss_is_the_eager_one(loss, jit):
    np.testing.assert_allclose(tf.function(loss, jit_compile=jit)(P, BITS), loss(P, BITS))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_is_that_of_the_predictions(loss, dtype):
    assert loss(tf.cast(P, dtype), BITS).dtype.name == dtype


@pytest.mark.parametrize("loss", LOSSES)
def test_shapes_must_agree(loss):
    with pytest.raises(ShapeError, match=f"{loss.__name__} expects y_hat and y of the same shape"):
        loss(P, BITS[:, :2])


@pytest.mark.parametrize("loss", CASES)
def test_one_number_is_the_target_of_all(loss):
    y_hat, _, formula = CASES[loss]
    np.testing.assert_allclose(loss(y_hat, 1), formula(y_hat, 1).mean())
