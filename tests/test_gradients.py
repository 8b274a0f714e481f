"""Gradients against derivatives that are known, and against gradient tapes."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    Chain,
    Dense,
    Descent,
    destructure,
    diaghessian,
    gradient,
    hessian,
    jacobian,
    param,
    params,
    pullback,
    setup,
    update,
    withgradient,
    withjacobian,
)

rng = np.random.default_rng(0)
A = rng.normal(size=(3, 4))
X = rng.normal(size=4)


def cubes(x):
    return tf.reduce_sum(x**3)


def jitted(f):
    return tf.function(f, jit_compile=True)


@pytest.mark.parametrize(
    "x", [2.0, 2, np.float32(2), tf.constant(2.0), tf.Variable(2.0), param(2.0)]
)
def test_a_number_of_any_kind(x):
    (g,) = gradient(lambda x: x**3 * 1.0, x)
    assert g.numpy() == 12.0


@pytest.mark.parametrize("x", [X, X.tolist(), tf.constant(X), tf.Variable(X), X[np.newaxis]])
def test_an_array_of_any_kind(x):
    (g,) = gradient(cubes, x)
    np.testing.assert_allclose(g, 3 * np.asarray(x) ** 2, rtol=1e-5)


def test_precision_is_that_of_the_array():
    assert gradient(cubes, X)[0].dtype == tf.float64
    assert gradient(cubes, X.tolist())[0].dtype == tf.float32
    variable = tf.Variable(X)
    assert gradient(lambda v: cubes(v * 1.0), variable)[0].dtype == tf.float64


def test_each_argument_has_its_gradient_and_whole_numbers_have_none():
    x, y, i = gradient(lambda x, y, i: tf.reduce_sum(tf.gather(x * y, i)), X, 2.0 * X, [0, 2, 2])
    counts = np.array([1, 0, 2, 0])
    np.testing.assert_allclose(x, 2 * X * counts)
    np.testing.assert_allclose(y, X * counts)
    assert i is None


def test_collections_keep_their_form():
    def f(p):
        return p["a"] * p["b"][0] + p["b"][1] ** 2

    (g,) = gradient(f, {"a": 2.0, "b": (tf.Variable(3.0), 4.0)})
    assert set(g) == {"a", "b"} and isinstance(g["b"], tuple)
    assert [float(v) for v in (g["a"], *g["b"])] == [3.0, 2.0, 8.0]


def test_what_is_not_used_has_no_gradient():
    assert gradient(lambda x, y: x * 2, 1.0, 2.0)[1] is None
    assert gradient(lambda x, mode: x * len(mode), 1.0, "abc")[0].numpy() == 3.0


def test_a_model_has_a_gradient_for_each_parameter():
    m = Chain(Dense(4, 3, "tanh"), Dense(3, 1))
    x = X[np.newaxis].astype("float32")
    loss = lambda m, x: tf.reduce_sum(m(x) ** 2)  # noqa: E731
    with tf.GradientTape() as tape:
        value = loss(m, x)
    expected = tape.gradient(value, [v.value for v in params(m)])

    y, (of_model, of_x) = withgradient(loss, m, x)
    (of_params,) = gradient(lambda: loss(m, x), params(m))
    (with_argument,) = gradient(lambda ps: loss(m, x) + 0 * tf.reduce_sum(ps[0]), params(m))

    np.testing.assert_allclose(y, value)
    assert of_x.shape == x.shape
    for given in of_model, of_params, with_argument:
        for g, e in zip(given, expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-6)
    before = [v.numpy() for v in params(m)]
    opt = setup(Descent(0.1), m)
    update(opt, m, of_model)
    for v, b, e in zip(params(m), before, expected, strict=True):
        np.testing.assert_allclose(v, b - 0.1 * e, rtol=1e-5)


def test_rows_of_an_embedding_are_summed_in_an_array():
    table = tf.Variable(np.ones((4, 2)))
    (g,) = gradient(lambda t: tf.reduce_sum(tf.gather(t, [1, 1, 3])), table)
    assert g.numpy().tolist() == [[0, 0], [2, 2], [0, 0], [1, 1]]


def test_layers_are_in_training_mode_within():
    dropout = keras.layers.Dropout(0.5, seed=0)
    y, _ = withgradient(lambda x: tf.reduce_sum(dropout(x)), np.ones(1000, "float32"))
    assert float(tf.reduce_sum(dropout(np.ones(1000)))) == 1000
    assert y != 1000


def test_what_comes_besides_is_returned():
    (value, *aux), (g,) = withgradient(lambda x: (x**2, {"twice": 2 * x}, "text"), 3.0)
    assert value == 9.0 and aux[0]["twice"] == 6.0 and aux[1] == "text"
    assert g == 6.0
    assert gradient(lambda x: (x**2, x), 3.0)[0] == 6.0


@pytest.mark.parametrize("jit", [None, True])
def test_compiled(jit):
    compiled = tf.function(lambda x: gradient(cubes, x)[0], jit_compile=jit)
    np.testing.assert_allclose(compiled(tf.constant(X)), 3 * X**2)
    compiled = tf.function(lambda x: hessian(cubes, x), jit_compile=jit)
    np.testing.assert_allclose(compiled(tf.constant(X)), np.diag(6 * X))


def test_gradients_of_gradients():
    (g,) = gradient(lambda x: gradient(lambda x: x**3, x)[0] ** 2, 2.0)
    assert g.numpy() == 2 * 12 * 12  # (9 x⁴)' = 36 x³


def test_a_pullback_goes_back_again_and_again():
    y, back = pullback(lambda a, x: tf.linalg.matvec(a, x), A, X)
    np.testing.assert_allclose(y, A @ X)
    for dy in rng.normal(size=(2, 3)):
        of_a, of_x = back(dy)
        np.testing.assert_allclose(of_a, np.outer(dy, X))
        np.testing.assert_allclose(of_x, A.T @ dy)
    np.testing.assert_allclose(back(1.0)[1], A.sum(0))
    _, back = pullback(lambda x: (x**2, 3 * x), [1.0, 2.0])
    np.testing.assert_allclose(back(([1.0, 0.0], 1.0))[0], [5.0, 3.0])


def test_jacobians_are_laid_out_flat():
    (j,) = jacobian(lambda x: tf.linalg.matvec(A, x), X)
    np.testing.assert_allclose(j, A)
    y, (j,) = withjacobian(lambda x: x**2, A)
    np.testing.assert_allclose(y, A**2)
    np.testing.assert_allclose(j, np.diag(2 * A.ravel()))
    assert jacobian(lambda x, y: x, 1.0, 2.0)[1] is None
    m = Dense(3, 2)
    x = rng.normal(size=(5, 3)).astype("float32")
    of_kernel, of_bias = jacobian(lambda m: m(x), m)[0]
    assert of_kernel.shape == (10, 6) and of_bias.shape == (10, 2)
    np.testing.assert_allclose(of_bias, np.tile(np.eye(2), (5, 1)))


@pytest.mark.parametrize("as_what", [np.asarray, tf.constant, tf.Variable])
def test_second_derivatives(as_what):
    h = A.T @ A

    def f(x):
        return tf.reduce_sum(tf.linalg.matvec(h, x) * x)

    np.testing.assert_allclose(hessian(f, as_what(X)), h + h.T)
    np.testing.assert_allclose(diaghessian(f, as_what(X))[0], 2 * np.diag(h))


def test_second_derivatives_of_little():
    assert hessian(lambda x: x**3, 2.0).numpy() == 12.0
    assert hessian(lambda x: 5 * x, 2.0).numpy() == 0.0
    of_x, of_y = diaghessian(lambda x, y: tf.reduce_sum(x**2) + y, A.astype("float32"), 1.0)
    np.testing.assert_allclose(of_x, np.full(A.shape, 2.0))
    assert of_y.numpy() == 0.0


def test_a_function_must_return_a_number():
    with pytest.raises(ValueError, match=r"returned a tensor of shape \(4,\). Reduce it"):
        gradient(lambda x: x**2, X)
    for result in np.float64(1), [1.0], None:
        with pytest.raises(TypeError, match="through which there is no gradient"):
            gradient(lambda x, result=result: result, X)


@pytest.mark.parametrize("compiled", [lambda f: f, tf.function, jitted])
def test_second_derivatives_by_models_and_their_parameters(compiled):
    m = Chain(Dense(2, 3, "tanh"), Dense(3, 1))
    x = rng.normal(size=(5, 2)).astype("float32")
    loss = lambda m: tf.reduce_sum(m(x) ** 2)  # noqa: E731
    vector, rebuild = destructure(m)
    expected = hessian(lambda v: loss(rebuild(v)), vector)
    for f, arg in (loss, m), (lambda: loss(m), params(m)):
        full = compiled(functools.partial(hessian, f, arg))()
        np.testing.assert_allclose(full, expected, rtol=1e-4, atol=1e-5)
        (diagonals,) = compiled(functools.partial(diaghessian, f, arg))()
        assert [d.shape for d in diagonals] == [v.shape for v in params(m)]
        flat = np.concatenate([np.ravel(d) for d in diagonals])
        np.testing.assert_allclose(flat, np.diag(expected), rtol=1e-4, atol=1e-5)


def test_second_derivatives_by_collections():
    p = {"a": 2.0, "b": 3.0}
    f = lambda p: p["a"] ** 3 * p["b"]  # noqa: E731
    assert hessian(f, p).numpy().tolist() == [[36.0, 12.0], [12.0, 0.0]]
    (diagonal,) = diaghessian(f, p)
    assert {name: float(d) for name, d in diagonal.items()} == {"a": 36.0, "b": 0.0}


def test_second_derivatives_by_nothing_are_refused():
    with pytest.raises(TypeError, match="hessian expects arrays, variables or models, got a str"):
        hessian(lambda s: 1.0, "abc")


def test_results_have_the_names_of_flux():
    result = withgradient(lambda x: {"loss": x**2, "twice": 2 * x}, 3.0)
    assert result.val["twice"] == 6.0 and result.grad[0] == 6.0
    assert withjacobian(lambda x: x**2, [3.0]).grad[0].numpy().tolist() == [[6.0]]


def test_whole_numbers_are_differentiated_by_where_there_is_nothing_else():
    (g,) = gradient(lambda x: tf.reduce_sum(x**2), [1, 2, 3])
    assert g.numpy().tolist() == [2, 4, 6]
    (j,) = jacobian(lambda a: 100 * a[:3] ** 2, np.arange(1, 8))
    np.testing.assert_allclose(j, np.eye(3, 7) * [200, 400, 600, 0, 0, 0, 0])
    (d,) = diaghessian(lambda x: tf.reduce_sum(x**3), [[1, 2], [3, 4]])
    assert d.numpy().tolist() == [[6, 12], [18, 24]]


def test_the_jacobian_by_a_number_is_a_vector():
    of_a, of_x = jacobian(lambda a, x: a**2 * x, [1.0, 2.0, 3.0], 1.0)
    assert of_a.numpy().tolist() == np.diag([2.0, 4.0, 6.0]).tolist()
    assert of_x.numpy().tolist() == [1.0, 4.0, 9.0]


def test_errors_come_as_they_were_raised():
    with pytest.raises(RuntimeError, match=r"^mine$"):
        gradient(lambda x: (_ for _ in ()).throw(RuntimeError("mine")), 1.0)


@pytest.mark.parametrize("kind", [param, tf.Variable])
def test_gradients_pass_where_an_array_of_numpy_comes_first(kind):
    x, w = np.arange(6.0, dtype="float32").reshape(3, 2), np.float32([[2.0], [3.0]])
    W = kind(w)

    (product,) = gradient(lambda W: tf.reduce_sum(x @ W), W)
    (others,) = gradient(lambda: tf.reduce_sum(w * W - w / W + (w - W)), [W])

    np.testing.assert_allclose(product, x.sum(0)[:, np.newaxis])
    np.testing.assert_allclose(others[0], w + w / w**2 - 1, rtol=1e-6)
    (scaled,) = gradient(lambda W: tf.reduce_sum(np.float32(2) * W), W)
    np.testing.assert_array_equal(scaled, [[2], [2]])


@pytest.mark.parametrize("of", [lambda W: W, lambda W: [W]])
def test_parameters_that_no_gradient_reaches_are_an_error(of):
    W = param([1.0, 2.0])

    with pytest.raises(ValueError, match=r"^no gradient reaches any parameter\. Does the function"):
        gradient(lambda W: tf.reduce_sum(np.exp(W)), of(W))


def test_one_parameter_among_others_may_be_without_a_gradient():
    W, v = param([1.0, 2.0]), param(3.0)

    assert gradient(lambda W, v: v * 2, W, v)[0] is None
