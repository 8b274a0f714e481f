"""Losses of classes against formulas in NumPy, and against Flux's documented values."""

import itertools
import re

import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    ShapeError,
    binary_focal_loss,
    crossentropy,
    ctc_loss,
    focal_loss,
    kldivergence,
    label_smoothing,
    xlogx,
    xlogy,
)

rng = np.random.default_rng(0)
P = rng.dirichlet([1.0] * 4, size=6)
Q = rng.dirichlet([1.0] * 4, size=6)
LABELS = np.eye(4)[rng.integers(4, size=6)]
EPS = 2.0**-52


def test_nothing_times_its_logarithm_is_nothing():
    assert xlogx([0.0, 1.0]).numpy().tolist() == [0.0, 0.0]
    np.testing.assert_allclose(xlogx(P), P * np.log(P))
    assert xlogy([0.0, 0.0], [0.0, 5.0]).numpy().tolist() == [0.0, 0.0]
    assert np.isnan(xlogy([0.0, np.nan], [np.nan, 1.0])).all()
    np.testing.assert_allclose(xlogy(P, Q), P * np.log(Q))


def test_smoothed_labels_share_alpha_among_the_classes():
    np.testing.assert_allclose(label_smoothing(LABELS, 0.1), LABELS * 0.9 + 0.1 / 4)
    np.testing.assert_allclose(label_smoothing(LABELS, 0.1, dims=0), LABELS * 0.9 + 0.1 / 6)
    np.testing.assert_allclose(label_smoothing(LABELS, 0.1, dims=None), LABELS * 0.9 + 0.1 / 2)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 2, np.nan])
def test_alpha_is_between_0_and_1(alpha):
    with pytest.raises(ValueError, match="label_smoothing expects an alpha between 0 and 1"):
        label_smoothing(LABELS, alpha)


def test_smoothing_wants_an_axis_of_classes():
    with pytest.raises(ShapeError, match=r"axis -1, got shape \(\)"):
        label_smoothing(1.0, 0.1)


@pytest.mark.parametrize("dims", [-1, 0, (0, 1)])
def test_the_divergence_is_that_of_the_formula(dims):
    expected = np.mean(np.sum(Q * np.log(Q / (P + EPS)), dims))
    np.testing.assert_allclose(kldivergence(P, Q, dims=dims), expected)
    np.testing.assert_allclose(kldivergence(P, P, dims=dims), 0, atol=1e-14)


@pytest.mark.parametrize("gamma", [0, 0.5, 2, 3.0])
def test_focal_losses_count_what_is_hard(gamma):
    p = P + EPS
    per_sample = np.sum(-LABELS * (1 - p) ** gamma * np.log(p), -1)
    np.testing.assert_allclose(focal_loss(P, LABELS, gamma=gamma), per_sample.mean())
    given = focal_loss(P, LABELS, gamma=gamma, agg=lambda loss: loss)
    np.testing.assert_allclose(given, per_sample)
    p = np.where(LABELS == 1, p, 1 - p)
    expected = np.mean(-((1 - p) ** gamma) * np.log(p))
    np.testing.assert_allclose(binary_focal_loss(P, LABELS, gamma=gamma), expected)


def test_a_focal_loss_without_focus_is_the_cross_entropy():
    np.testing.assert_allclose(focal_loss(P, LABELS, gamma=0), crossentropy(P, LABELS))


@pytest.mark.parametrize("loss", [focal_loss, binary_focal_loss])
@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_certain_predictions_have_finite_focal_losses(loss, gamma):
    y_hat = tf.constant([[1.0, 0.0], [0.0, 1.0]])
    assert np.isfinite(loss(y_hat, [[1, 0], [1, 0]], gamma=gamma))


@pytest.mark.parametrize(
    "loss",
    [
        kldivergence,
        focal_loss,
        binary_focal_loss,
        lambda y_hat, y: crossentropy(y_hat, label_smoothing(y, 0.1)),
    ],
)
@pytest.mark.parametrize("jit", [False, True])
def test_a_compiled_loss_is_the_eager_one(loss, jit):
    compiled = tf.function(loss, jit_compile=jit)
    np.testing.assert_allclose(compiled(P, LABELS), loss(P, LABELS), rtol=1e-10)


@pytest.mark.parametrize("loss", [kldivergence, focal_loss, binary_focal_loss, xlogy])
def test_shapes_must_agree(loss):
    with pytest.raises(ShapeError, match=re.escape("(6, 4)")):
        loss(P, Q[:, :3])


def all_paths(logits, labels):
    """Minus the logarithm of the sum over all paths, by going through each."""
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    blank = p.shape[1] - 1
    total = 0.0
    for path in itertools.product(range(p.shape[1]), repeat=len(p)):
        merged = [label for label, _ in itertools.groupby(path)]
        if [label for label in merged if label != blank] == list(labels):
            total += np.prod([p[t, label] for t, label in enumerate(path)])
    return -np.log(total)


@pytest.mark.parametrize("labels", [[0], [0, 1], [1, 1], [0, 1, 0], []])
def test_sequences_of_labels_are_summed_over_all_paths(labels):
    logits = rng.normal(size=(5, 3)).astype("float32")
    loss = ctc_loss(logits, np.array(labels, int))
    np.testing.assert_allclose(loss, all_paths(logits, labels), rtol=1e-4)


@pytest.mark.parametrize("labels", [[0, 1, 0], [1, 1]])
def test_labels_that_do_not_fit_into_the_steps_cost_infinitely_much(labels):
    assert ctc_loss(np.zeros((2, 3), "float32"), labels) == np.inf
    assert np.isfinite(ctc_loss(np.zeros((3, 3), "float32"), labels))


def test_a_sequence_of_labels_has_a_gradient():
    logits = tf.Variable(rng.normal(size=(4, 3)).astype("float32"))
    with tf.GradientTape() as tape:
        loss = ctc_loss(logits, [0, 1])
    gradient = tape.gradient(loss, logits).numpy()
    for at in [(0, 0), (2, 1), (3, 2)]:
        moved = logits.numpy().astype("float64")
        moved[at] += 1e-3
        expected = (all_paths(moved, [0, 1]) - all_paths(logits.numpy(), [0, 1])) / 1e-3
        np.testing.assert_allclose(gradient[at], expected, atol=2e-3)


@pytest.mark.parametrize("labels", [[0, 2], [-1], [3, 1]])
def test_a_label_is_a_class_but_the_blank(labels):
    message = (
        f"ctc_loss expects labels from 0 to 1, since the last class is the blank, got {labels}."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ctc_loss(np.zeros((5, 3), "float32"), labels)


def test_sequences_of_labels_are_compiled():
    logits = rng.normal(size=(4, 3)).astype("float32")
    loss = tf.function(ctc_loss)(logits, tf.constant([0, 1]))
    np.testing.assert_allclose(loss, all_paths(logits, [0, 1]), rtol=1e-4)


def test_one_sequence_at_a_time():
    with pytest.raises(ShapeError, match="logits of one sequence"):
        ctc_loss(np.zeros((2, 5, 3)), [[0], [1]])


def test_one_number_is_the_label_of_all_where_it_is_yes_or_no():
    expected = np.mean(-((1 - P) ** 2) * np.log(P))
    np.testing.assert_allclose(binary_focal_loss(P, 1), expected, rtol=1e-10)
