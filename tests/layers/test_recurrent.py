import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    GRU,
    LSTM,
    RNN,
    Chain,
    Dense,
    GRUCell,
    GRUv3,
    GRUv3Cell,
    LSTMCell,
    Recurrence,
    RNNCell,
    ShapeError,
    initialstates,
    param,
    params,
    relu,
    tanh,
)

rng = np.random.default_rng(0)

LAYERS = {RNN: RNNCell, LSTM: LSTMCell, GRU: GRUCell, GRUv3: GRUv3Cell}
EACH_LAYER = pytest.mark.parametrize("kind", LAYERS)
EACH_CELL = pytest.mark.parametrize("kind", LAYERS.values())


# --- Flux's formulas, in NumPy, on Flux's arrays --------------------------------------------------
# Features first, the batch last: x (in, batch), h (out, batch); Wi (gates, in), Wh (gates, out).


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def rnn_step(w, x, h):
    h = np.tanh(w["Wi"] @ x + w["Wh"] @ h + w["b"])
    return h, h


def lstm_step(w, x, state):
    h, c = state
    i, f, g, o = np.split(w["Wi"] @ x + w["Wh"] @ h + w["b"], 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    return h, (h, c)


def gru_step(w, x, h):
    gx, gh = np.split(w["Wi"] @ x + w["b"], 3), np.split(w["Wh"] @ h, 3)
    r, z = sigmoid(gx[0] + gh[0]), sigmoid(gx[1] + gh[1])
    h = (1 - z) * np.tanh(gx[2] + r * gh[2]) + z * h
    return h, h


def gru_v3_step(w, x, h):
    gx, gh = np.split(w["Wi"] @ x + w["b"], 3), np.split(w["Wh"] @ h, 3)
    r, z = sigmoid(gx[0] + gh[0]), sigmoid(gx[1] + gh[1])
    h = (1 - z) * np.tanh(gx[2] + w["Wh_h̃"] @ (r * h)) + z * h
    return h, h


STEPS = {
    RNNCell: (1, rnn_step),
    LSTMCell: (4, lstm_step),
    GRUCell: (3, gru_step),
    GRUv3Cell: (3, gru_v3_step),
}


def flux_weights(kind, cell):
    """Arrays of Flux's shapes, also assigned to the cell."""
    gates = STEPS[kind][0]
    inputs, out = cell.kernel.shape[0], cell.recurrent_kernel.shape[0]
    w = {
        "Wi": rng.normal(size=(gates * out, inputs)),
        "Wh": rng.normal(size=(gates * out, out)),
        "b": np.zeros((gates * out, 1)),
    }
    cell.kernel.assign(w["Wi"].T)
    cell.recurrent_kernel.assign(w["Wh"].T)
    if cell.bias is not None:
        w["b"] = rng.normal(size=(gates * out, 1))
        cell.bias.assign(w["b"][:, 0])
    if kind is GRUv3Cell:
        w["Wh_h̃"] = rng.normal(size=(out, out))
        cell.candidate_kernel.assign(w["Wh_h̃"].T)
    return w


def zeros(kind, *shape):
    return (np.zeros(shape),) * 2 if kind is LSTMCell else np.zeros(shape)


def flux_sequence(kind, w, x, state):
    """`x` and the outputs are `(batch, time, features)`; the state is Flux's."""
    outputs = []
    for t in range(x.shape[1]):
        y, state = STEPS[kind][1](w, x[:, t].T, state)
        outputs.append(y.T)
    return np.stack(outputs, 1), state


def parts(state):
    return state if isinstance(state, tuple) else (state,)


def random_state(kind, *shape):
    return (
        tuple(rng.normal(size=shape) for _ in range(2))
        if kind is LSTMCell
        else rng.normal(size=shape)
    )


def transposed(state):
    arrays = tuple(np.transpose(s) for s in parts(state))
    return arrays if isinstance(state, tuple) else arrays[0]


def assert_close(ours, expected, **tolerance):
    for a, b in zip(parts(ours), parts(expected), strict=True):
        np.testing.assert_allclose(a, b, **{"rtol": 1e-4, "atol": 1e-5} | tolerance)


# --- Cells ----------------------------------------------------------------------------------------


@EACH_CELL
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_is_the_formula_of_flux(kind, bias):
    cell = kind(3, 5, bias=bias)
    w = flux_weights(kind, cell)
    x, state = rng.normal(size=(4, 3)), random_state(kind, 4, 5)
    expected_y, expected_state = STEPS[kind][1](w, x.T, transposed(state))

    y, new = cell(x, state)

    assert_close(y, expected_y.T)
    assert_close(new, transposed(expected_state))


@EACH_CELL
def test_a_cell_starts_with_zeros(kind):
    cell = kind(3, 5)
    w = flux_weights(kind, cell)
    x = rng.normal(size=(4, 3))

    y, state = cell(x)

    assert_close(y, STEPS[kind][1](w, x.T, zeros(kind, 5, 4))[0].T)
    assert all(s.shape == (4, 5) for s in parts(state))


@EACH_CELL
def test_a_cell_takes_one_sample_and_one_state_for_all(kind):
    cell = kind(3, 5)
    x, state = rng.normal(size=(4, 3)), random_state(kind, 5)
    tiled = tuple(np.tile(s, (4, 1)) for s in parts(state))
    y, new = cell(x, tiled if kind is LSTMCell else tiled[0])

    y_of_all, new_of_all = cell(x, state)
    y_of_one, new_of_one = cell(x[2], state)

    assert_close(y_of_all, y)
    assert_close(new_of_all, new)
    assert_close(y_of_one, y[2])
    assert_close(new_of_one, tuple(s[2] for s in new) if kind is LSTMCell else new[2])
    assert cell(x[2])[0].shape == (5,)


@EACH_CELL
def test_initial_states_are_zeros(kind):
    for layer in kind(3, 5), Recurrence(kind(3, 5)):
        state = initialstates(layer)

        assert isinstance(state, tuple) is (kind is LSTMCell)
        assert_close(state, zeros(kind, 5))


def test_initial_states_of_keras_layers_too():
    h, c = initialstates(keras.layers.LSTM(5))

    assert h.shape == c.shape == (5,)
    with pytest.raises(TypeError, match=re.escape("recurrent cell or layer, got relu.")):
        initialstates(relu)


@EACH_CELL
@pytest.mark.parametrize("bias", [True, False])
def test_biases_start_at_zero_those_of_forget_gates_too(kind, bias):
    cell = kind(3, 5, bias=bias)

    assert (cell.bias is not None) is bias
    if bias:
        np.testing.assert_array_equal(cell.bias, np.zeros(STEPS[kind][0] * 5))


@pytest.mark.parametrize("kind", [*LAYERS, *LAYERS.values()])
def test_kernels_start_by_their_initialisers(kind):
    layer = kind(
        3,
        4,
        init_kernel="ones",
        init_recurrent_kernel=lambda shape, dtype: tf.fill(shape, tf.cast(2, dtype)),
    )
    cell = getattr(layer, "cell", layer)

    np.testing.assert_array_equal(cell.kernel, np.ones(cell.kernel.shape))
    np.testing.assert_array_equal(cell.recurrent_kernel, 2 * np.ones(cell.recurrent_kernel.shape))
    if "v3" in kind.__name__:
        np.testing.assert_array_equal(cell.candidate_kernel, 2 * np.ones((4, 4)))


@EACH_CELL
def test_recurrent_kernels_start_by_glorot(kind):
    cell = kind(30, 40)
    bound = np.sqrt(6 / (40 + STEPS[kind][0] * 40))

    largest = np.abs(cell.recurrent_kernel).max()

    assert 0.98 * bound < largest <= bound


@pytest.mark.parametrize(
    ("kind", "count"),  # what Flux prints for 3 => 5
    [(RNNCell, 45), (LSTMCell, 180), (GRUCell, 135), (GRUv3Cell, 160)],
)
def test_there_are_as_many_parameters_as_in_flux(kind, count):
    assert kind(3, 5).count_params() == count


def test_rnn_takes_an_activation():
    x = rng.normal(size=(4, 3))
    for activation in relu, "relu", tf.nn.relu:
        cell = RNNCell((3, 5), activation)

        assert_close(cell(x)[0], np.maximum(x @ cell.kernel.numpy(), 0))
        assert RNN(3, 5, activation)(x[None]).numpy().min() >= 0


# --- Layers ---------------------------------------------------------------------------------------


@EACH_LAYER
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_is_the_loop_of_flux(kind, bias):
    layer = kind(3, 5, bias=bias, return_state=True)
    cell = LAYERS[kind]
    w = flux_weights(cell, layer.cell)
    x, state = rng.normal(size=(4, 7, 3)), random_state(cell, 4, 5)
    expected_y, expected_state = flux_sequence(cell, w, x, transposed(state))

    y, last = layer(x, state)

    assert_close(y, expected_y)
    assert_close(last, transposed(expected_state))


@EACH_LAYER
def test_a_layer_starts_with_zeros_and_returns_all_steps(kind):
    layer = kind(3, 5)
    cell = LAYERS[kind]
    w = flux_weights(cell, layer.cell)
    x = rng.normal(size=(4, 7, 3))

    assert_close(layer(x), flux_sequence(cell, w, x, zeros(cell, 5, 4))[0])


@EACH_LAYER
def test_a_layer_is_a_recurrence_of_its_cell(kind):
    layer, recurrence = kind(3, 5), Recurrence(LAYERS[kind](3, 5))
    recurrence.set_weights(layer.get_weights())
    x = rng.normal(size=(4, 7, 3))

    assert_close(recurrence(x), layer(x))


@EACH_LAYER
def test_a_sequence_may_have_no_batch_axis(kind):
    layer = kind(3, 5, return_state=True)
    x, state = rng.normal(size=(7, 3)), random_state(LAYERS[kind], 5)
    y, last = layer(x[None], state)

    y_of_one, last_of_one = layer(x, state)

    assert y_of_one.shape == (7, 5)
    assert_close(y_of_one, y[0])
    assert_close(last_of_one, tuple(s[0] for s in last) if kind is LSTM else last[0])
    assert layer(x.tolist())[0].shape == (7, 5)


@EACH_LAYER
def test_two_halves_of_a_sequence_are_the_whole(kind):
    layer = kind(3, 5, return_state=True)
    x = rng.normal(size=(4, 7, 3))
    y, last = layer(x)

    first, state = layer(x[:, :3])
    second, end = layer(x[:, 3:], state)

    assert_close(tf.concat([first, second], 1), y)
    assert_close(end, last)


@EACH_LAYER
@pytest.mark.parametrize("jit_compile", [False, True])
def test_compiled_values_and_gradients_are_the_same(kind, jit_compile):
    layer = kind(3, 5)
    x = tf.constant(rng.normal(size=(4, 6, 3)), tf.float32)

    def run(x):
        with tf.GradientTape() as tape:
            y = tf.reduce_sum(layer(x) ** 2)
        return y, tape.gradient(y, [v.value for v in layer.trainable_variables])

    y, gradients = run(x)
    compiled_y, compiled_gradients = tf.function(run, jit_compile=jit_compile)(x)

    np.testing.assert_allclose(compiled_y, y, rtol=1e-4)
    for a, b in zip(compiled_gradients, gradients, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@EACH_LAYER
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_batch_and_time_may_be_unknown(kind, dtype):
    layer = kind(3, 5, dtype=dtype, return_state=True)
    call = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 3), dtype)])
    tolerance = {"rtol": 1e-2, "atol": 1e-3} if dtype == "float16" else {}

    for batch, time in (1, 4), (5, 1), (2, 8):
        x = tf.cast(rng.normal(size=(batch, time, 3)), dtype)
        y, state = call(x)
        assert y.shape == (batch, time, 5)
        assert y.dtype == parts(state)[0].dtype == dtype
        assert_close(y, layer(x)[0], **tolerance)


def test_float64_is_computed_in_float64():
    for kind, cell in LAYERS.items():
        layer = kind(3, 5, dtype="float64")
        w = flux_weights(cell, layer.cell)
        x = rng.normal(size=(2, 4, 3))

        expected = flux_sequence(cell, w, x, zeros(cell, 5, 2))[0]

        assert_close(layer(x), expected, rtol=1e-12, atol=1e-14)


@EACH_LAYER
def test_the_first_state_can_be_trained(kind):
    layer = kind(3, 5)
    start = [param(np.zeros(5)) for _ in initialstates_of(layer)]
    x = rng.normal(size=(4, 7, 3))

    with tf.GradientTape() as tape:
        y = tf.reduce_sum(layer(x, tuple(start) if kind is LSTM else start[0]))

    for gradient in tape.gradient(y, [v.value for v in start]):
        assert gradient.shape == (5,)
        assert np.abs(gradient).max() > 0


def initialstates_of(layer):
    return parts(initialstates(layer))


@EACH_LAYER
def test_it_is_a_keras_layer_of_functional_models(kind):
    layer = kind(3, 5, return_state=True)
    inputs = keras.Input((None, 3))
    y, state = layer(inputs)
    model = keras.Model(inputs, [y, *parts(state)])
    x = rng.normal(size=(4, 7, 3))

    outputs = model(x)

    assert y.shape == (None, None, 5)
    assert_close(outputs[0], layer(x)[0])
    assert_close(tuple(outputs[1:]), parts(layer(x)[1]))


@EACH_LAYER
def test_masked_steps_keep_the_state(kind):
    layer = kind(3, 5, return_state=True)
    x = rng.normal(size=(2, 4, 3))
    mask = np.array([[True, True, False, False], [True] * 4])

    _, state = layer(x, mask=mask)

    _, short = layer(x[:1, :2])
    assert_close(parts(state)[0][0], parts(short)[0][0])


def test_rnn_and_lstm_are_those_of_keras():
    assert isinstance(RNN(3, 5), keras.layers.SimpleRNN)
    assert isinstance(LSTM(3, 5), keras.layers.LSTM)
    assert isinstance(GRU(3, 5), keras.layers.RNN)


def test_keras_options_pass_through():
    x = rng.normal(size=(2, 4, 3))
    for kind in LAYERS:
        forwards, backwards = kind(3, 5), kind(3, 5, go_backwards=True, name="back")
        backwards.set_weights(forwards.get_weights())

        assert backwards.name == "back"
        assert_close(backwards(x), forwards(x[:, ::-1]))


@EACH_LAYER
def test_bidirectional_of_keras_wraps_it(kind):
    x = rng.normal(size=(2, 4, 3))

    assert keras.layers.Bidirectional(kind(3, 5))(x).shape == (2, 4, 10)


def test_chains_of_them_train():
    m = Chain(LSTM(3, 8), GRU(8, 4), Dense(4, 1))
    m.compile("adam", "mse")
    x = rng.normal(size=(32, 6, 3))

    history = m.fit(x, np.cumsum(x.sum(-1, keepdims=True), 1), epochs=5, verbose=0)

    assert m.built
    assert len(params(m)) == 8
    assert history.history["loss"][-1] < history.history["loss"][0]


# --- Recurrence -----------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class Decay:
    """A cell that is no Keras layer, with two states."""

    def __init__(self, rate=0.5):
        self.rate = param(rate)
        self.start = param([1.0, 2.0])

    def __call__(self, x, state):
        total, count = state
        total = self.rate * total + x
        return tf.reduce_sum(total, -1, keepdims=True), (total, count + 1)

    def initialstates(self):
        return self.start, tf.zeros(1)

    def get_config(self):
        return {"rate": float(self.rate)}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __str__(self):
        return "Decay()"


def test_recurrence_takes_a_cell_of_the_users():
    layer = Recurrence(Decay(), return_state=True)
    x = rng.normal(size=(4, 3, 2))
    total, outputs = np.tile([1.0, 2.0], (4, 1)), []
    for t in range(3):
        total = 0.5 * total + x[:, t]
        outputs.append(total.sum(-1, keepdims=True))

    y, (last, count) = layer(x)

    assert_close(y, np.stack(outputs, 1))
    assert_close(last, total)
    assert_close(count, np.full((4, 1), 3.0))
    assert len(params(layer)) == len(layer.trainable_variables) == 2
    assert str(layer) == "Recurrence(Decay(), return_state=True)"


def test_recurrence_of_a_users_cell_trains_its_parameters():
    layer = Recurrence(Decay())
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(layer(np.ones((4, 3, 2))))

    gradients = tape.gradient(y, [v.value for v in params(layer)])

    assert all(np.abs(g).max() > 0 for g in gradients)


def test_recurrence_of_a_users_cell_saves(tmp_path):
    m = Chain(Recurrence(Decay(0.25)))
    m[0].trainable_variables[1].assign([3.0, 4.0])
    x = rng.normal(size=(4, 3, 2))
    expected = m(x)

    m.save(tmp_path / "m.keras")

    assert_close(keras.models.load_model(tmp_path / "m.keras")(x), expected)


def test_recurrence_takes_a_cell_of_keras():
    layer, whole = Recurrence(keras.layers.GRUCell(5)), keras.layers.GRU(5, return_sequences=True)
    x = rng.normal(size=(4, 7, 3))
    layer(x), whole(x)
    whole.set_weights(layer.get_weights())

    assert_close(layer(x), whole(x))
    assert_close(layer(x, initialstates(layer)), whole(x))


@pytest.mark.parametrize("cell", [relu, 3, Dense(3, 5)])
def test_recurrence_refuses_what_is_no_cell(cell):
    with pytest.raises(TypeError, match=r"^Recurrence expects a cell, got .* A cell is called as"):
        Recurrence(cell)


# --- Printing, saving, errors ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "source", "text"),
    [
        (RNNCell(2, 3), "RNNCell(2, 3, tanh)", "RNNCell(2 => 3, tanh)"),
        (RNN((2, 3), relu), "RNN(2, 3, relu)", "RNN(2 => 3, relu)"),
        (LSTMCell(2, 3), "LSTMCell(2, 3)", "LSTMCell(2 => 3)"),
        (LSTM([2, 3]), "LSTM(2, 3)", "LSTM(2 => 3)"),
        (GRUCell(2, 3, bias=False), "GRUCell(2, 3, bias=False)", "GRUCell(2 => 3, bias=False)"),
        (
            GRU(2, 3, bias=False, return_state=True),
            "GRU(2, 3, bias=False, return_state=True)",
            "GRU(2 => 3, bias=False, return_state=True)",
        ),
        (GRUv3(2, 3), "GRUv3(2, 3)", "GRUv3(2 => 3)"),
        (GRUv3Cell(2, 3), "GRUv3Cell(2, 3)", "GRUv3Cell(2 => 3)"),
        (
            LSTM(2, 3, return_state=True),
            "LSTM(2, 3, return_state=True)",
            "LSTM(2 => 3, return_state=True)",
        ),
        (
            Recurrence(LSTMCell(2, 3), return_state=True),
            "Recurrence(LSTMCell(2, 3), return_state=True)",
            "Recurrence(LSTMCell(2 => 3), return_state=True)",
        ),
    ],
)
def test_printing(layer, source, text):
    assert repr(layer) == source
    assert str(layer) == text
    assert str(eval(source, {**globals(), "tanh": tanh})) == text


@pytest.mark.parametrize(
    "layer",
    [
        RNN(3, 5, relu, bias=False),
        LSTM(3, 5, init_kernel="ones", unroll=True),
        GRU(3, 5, bias=False, dtype="float64", name="gru"),
        GRUv3(3, 5),
        *(Recurrence(cell(3, 5, bias=False)) for cell in LAYERS.values()),
        Recurrence(keras.layers.GRUCell(5)),
    ],
    ids=str,
)
def test_saving(layer, tmp_path):
    m = Chain(layer, Dense(5, 2))
    x = rng.normal(size=(4, 6, 3))
    expected = m(x)

    m.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")

    assert repr(again) == repr(m)
    np.testing.assert_array_equal(again(x), expected)
    assert (again[0].name, again[0].dtype) == (layer.name, layer.dtype)


@pytest.mark.parametrize("kind", LAYERS)
def test_exporting(kind, tmp_path):
    m = Chain(kind(3, 5), Dense(5, 2))
    x = rng.normal(size=(4, 6, 3)).astype("float32")
    expected = m(x)

    archive = keras.export.ExportArchive()
    archive.track(m)
    archive.add_endpoint("serve", m.call, [tf.TensorSpec((None, None, 3))])
    archive.write_out(tmp_path / "saved")

    saved = tf.saved_model.load(tmp_path / "saved")

    np.testing.assert_allclose(saved.serve(x), expected, rtol=1e-5, atol=1e-6)


@EACH_LAYER
@pytest.mark.parametrize("shape", [(3,), (2, 7, 4), (7, 2), (1, 2, 7, 3), (2, 0, 3)])
def test_a_layer_says_which_input_it_expects(kind, shape):
    layer = kind(3, 5)
    message = (
        f"{layer} expects inputs of shape (time, 3) or (batch, time, 3), with at least one time "
        f"step, got {shape}."
    )

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        layer(np.ones(shape))


@EACH_CELL
@pytest.mark.parametrize("shape", [(), (4,), (2, 4), (2, 7, 3)])
def test_a_cell_says_which_input_it_expects(kind, shape):
    cell = kind(3, 5)
    message = f"{cell} expects inputs of shape (3,) or (batch, 3), got {shape}."

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        cell(np.ones(shape))


@pytest.mark.parametrize(
    ("layer", "x", "state", "wanted", "given"),
    [
        (RNN(3, 5), (2, 7, 3), [(4,)], "(5,)", "(4,)"),
        (GRU(3, 5), (2, 7, 3), [(3, 5)], "(5,)", "(3, 5)"),
        (GRU(3, 5), (7, 3), [(2, 5)], "(5,)", "(2, 5)"),
        (LSTM(3, 5), (2, 7, 3), [(5,)], "(5,), (5,)", "(5,)"),
        (LSTM(3, 5), (2, 7, 3), [(5,), (2, 4)], "(5,), (5,)", "(5,), (2, 4)"),
        (RNNCell(3, 5), (2, 3), [(5,), (5,)], "(5,)", "(5,), (5,)"),
        (LSTMCell(3, 5), (2, 3), [(3, 5), (3, 5)], "(5,), (5,)", "(3, 5), (3, 5)"),
        (GRUv3Cell(3, 5), (3,), [(1, 2, 5)], "(5,)", "(1, 2, 5)"),
    ],
)
def test_which_state_is_expected(layer, x, state, wanted, given):
    message = (
        f"{layer} expects a state of shape {wanted} or with the batch of the input before it, got "
        f"{given}. initialstates(layer) makes one."
    )

    with pytest.raises(ShapeError, match=f"^{re.escape(message)}$"):
        layer(np.ones(x), tuple(map(np.ones, state)))


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        (RNN, (3,), "RNN expects two sizes and an activation, got (3). Write RNN(32, 64, relu)."),
        (LSTM, (3, 5, relu), "LSTM expects two sizes, got (3, 5, relu). Write LSTM(32, 64)."),
        (GRU, (0, 5), "GRUCell expects two sizes, got (0, 5). Write GRUCell(32, 64)."),
        (GRUv3Cell, (), "GRUv3Cell expects two sizes, got (). Write GRUv3Cell(32, 64)."),
        (LSTMCell, ((3, 5, 7),), "LSTMCell expects two sizes, got ((3, 5, 7))."),
        (RNNCell, (3.0, 5), "RNNCell expects two sizes and an activation, got (3.0, 5)."),
    ],
)
def test_sizes_are_two(kind, sizes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(*sizes)
