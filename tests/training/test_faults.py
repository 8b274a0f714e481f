"""Faults of the user's code and data: the user's own error comes up, at a whole step."""

import functools
import gc
import threading
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

from fluxkeras import (
    ADAM,
    NonFiniteError,
    mse,
    param,
    prefetch,
    reading,
    stop,
    throttle,
    train,
)

FORMS = ["single", "graph", "xla", "auto"]
AT = 6  # the batch at which something goes wrong
CHUNK = 4

rng = np.random.default_rng(0)
X = rng.random((AT + 3, 5, 4)).astype("float32")
Y = rng.random((AT + 3, 5, 2)).astype("float32")


class Fault(Exception):
    pass


def fail(*_):
    raise Fault("my own words")


@pytest.fixture
def no_thread_is_left():
    """Threads of Python's, not those of TensorFlow in which Python's functions run."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 10
    while left := [t for t in set(threading.enumerate()) - before if t.name[:5] != "Dummy"]:
        assert time.monotonic() < deadline, left
        gc.collect()
        time.sleep(0.01)


pytestmark = pytest.mark.usefixtures("no_thread_is_left")


class Run:
    """A model with its optimiser, which can be set back to the start: it is compiled once."""

    def __init__(self):
        keras.utils.set_random_seed(1)
        self.model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(3, "tanh"),
                keras.layers.BatchNormalization(momentum=0.5),
                keras.layers.Dense(2),
            ]
        )
        self.opt = ADAM(0.01)
        self.opt.build(self.model.trainable_variables)
        self.at_first = self.state

    def reset(self):
        for variable, value in zip(self.variables, self.at_first):
            variable.assign(value)
        return self

    def loss(self, x, y):
        return mse(self.model(x), y)

    def train(self, data, form, loss=None, **options):
        return train(
            loss or self.loss, data, self.opt, form=form, chunk=CHUNK, progress=False, **options
        )

    @property
    def variables(self):
        return [*self.model.variables, *self.opt.variables]

    @property
    def state(self):
        return [v.numpy() for v in self.variables]


RUN = Run()


@pytest.fixture
def run():
    return RUN.reset()


@functools.cache
def state_after(steps, form):
    """That of a run that ended before, in the same form."""
    run = RUN.reset()
    run.train(list(zip(X[:steps], Y[:steps])), form)
    return run.state


def is_after(run, steps, form):
    """Whether model and optimiser are at a whole step."""
    state, rtol = run.state, 1e-3 if form == "auto" else 1e-5  # which may change in between
    for value, expected in zip(state, state_after(steps, form), strict=True):
        np.testing.assert_allclose(value, expected, rtol=rtol, atol=rtol / 100)


def last_frame(error):
    """The name of the function on whose line the error was raised."""
    traceback = error.__traceback__
    while traceback.tb_next:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_name


def words(error):
    return "\n".join([str(error), *getattr(error, "__notes__", [])])


# --- Errors in the user's functions ---------------------------------------------------------------


def batches_that_end_in_a_fault():
    yield from zip(X[:AT], Y[:AT])
    fail()


def faulty_at(i):
    return fail() if i == AT else (X[i], Y[i])


class Faulty:
    """An iterator of the user's."""

    def __init__(self):
        self.i = -1

    def __iter__(self):
        return self

    def __next__(self):
        self.i += 1
        return faulty_at(self.i)


DATA = {
    "generator": batches_that_end_in_a_fault,
    "iterator": Faulty,
    "map": lambda: map(faulty_at, range(99)),
    "zip": lambda: zip(map(lambda i: faulty_at(i)[0], range(99)), Y),
    "prefetch": lambda: prefetch(batches_that_end_in_a_fault(), 3),
    "prefetch of map": lambda: prefetch(map(faulty_at, range(99)), 20),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", DATA)
def test_an_error_in_the_data(run, kind, form):

    with pytest.raises(Fault, match=f"asked for batch {AT}: my own words") as caught:
        run.train(DATA[kind](), form)

    assert last_frame(caught.value) == "fail"
    assert len(caught.value.history) == AT
    is_after(run, AT, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("read_ahead", [False, True])
def test_an_error_in_a_callback(run, read_ahead, form):
    data = zip(X, Y)

    with pytest.raises(Fault, match="my own words") as caught:
        run.train(
            prefetch(data, 2) if read_ahead else data,
            form,
            cb=lambda state: state.step == AT and fail(),
        )

    assert last_frame(caught.value) == "fail"
    assert len(caught.value.history) == AT + 1
    is_after(run, AT + 1, form)


@pytest.mark.parametrize("form", FORMS)
def test_an_error_in_a_throttled_callback(run, form):

    with pytest.raises(Fault, match="my own words") as caught:
        run.train(zip(X, Y), form, cb=throttle(lambda state: state.step >= 1 and fail(), 0))

    assert last_frame(caught.value) == "fail"
    is_after(run, len(caught.value.history), form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("read_ahead", [False, True])
def test_an_error_in_the_objective(run, read_ahead, form):
    data = [*zip(X[:AT], Y[:AT]), (X[AT, :3], Y[AT, :3]), (X[AT], Y[AT])]

    def loss(x, y):
        return fail() if x.shape[0] == 3 else run.loss(x, y)

    with pytest.raises(Fault, match=rf"^batch {AT} \(float32 \(3, 4\).*: my own words$") as caught:
        run.train(prefetch(data, 2) if read_ahead else data, form, loss)

    assert last_frame(caught.value) == "fail"
    assert len(caught.value.history) == AT
    is_after(run, AT, form)


def checked(x):
    if x.numpy().sum() > 1e3:
        fail()
    return x


@pytest.mark.filterwarnings("ignore:form='xla' is not for this objective")
@pytest.mark.parametrize("form", FORMS)
def test_an_error_in_a_py_function(run, form):
    x = X.copy()
    x[AT] = 1e3

    def loss(x, y):
        error = run.loss(x, y)
        return error + 0 * tf.reduce_sum(tf.py_function(checked, [x], "float32"))

    with pytest.raises(tf.errors.UnknownError, match="Fault: my own words") as caught:
        run.train(list(zip(x, Y)), form, loss)

    assert "in checked" in str(caught.value) and "in fail" in str(caught.value)
    assert f"batch {AT} (" in words(caught.value) or not hasattr(caught.value, "add_note")
    assert len(caught.value.history) == AT
    is_after(run, AT, "single" if form == "xla" else form)


@pytest.mark.parametrize("form", ["single", "graph", "auto"])
def test_an_error_in_an_operation(run, form):
    x = X.copy()
    x[AT] = 1e3

    def loss(x, y):
        error = run.loss(x, y)
        tf.debugging.assert_less(x, 10.0, "too large")
        return error

    with pytest.raises(tf.errors.InvalidArgumentError, match="too large") as caught:
        run.train(list(zip(x, Y)), form, loss)

    assert len(caught.value.history) == AT
    is_after(run, AT, form)


class Failing(keras.optimizers.SGD):
    """A rule of the user's that fails at the second of its parameters."""

    def update_step(self, gradient, variable, learning_rate):
        super().update_step(gradient, variable, learning_rate)
        if len(variable.shape):
            tf.py_function(checked, [gradient], gradient.dtype)


@pytest.mark.filterwarnings("ignore:form='xla' is not for this objective")
@pytest.mark.parametrize("form", FORMS)
def test_an_error_in_the_update(form):
    first, second = param(0.0), param([0.0])
    opt = Failing(1.0)
    data = [1.0] * AT + [1e4] + [1.0] * 3

    with pytest.raises(tf.errors.UnknownError, match="Fault: my own words") as caught:
        train(
            lambda x: tf.reduce_sum((first + second) * x), data, opt, form=form, chunk=CHUNK,
            progress=False,
        )  # fmt: skip

    assert len(caught.value.history) == int(opt.iterations) == AT
    assert (float(first), float(second[0])) == (-AT, -AT)


@pytest.mark.parametrize("form", FORMS)
def test_training_goes_on_after_an_error(run, form):
    with pytest.raises(Fault):
        run.train(map(faulty_at, range(99)), form)

    run.train(zip(X[AT:], Y[AT:]), form)

    is_after(run, len(X), form)


def test_an_error_where_data_is_iterated_comes_as_it_is(run):
    class Wrong:
        def __iter__(self):
            return iter(3 + "4")

    with pytest.raises(TypeError, match="unsupported operand") as caught:
        run.train(Wrong(), "auto")

    assert last_frame(caught.value) == "__iter__"


def test_data_that_never_comes_does_not_hold_up_an_error(run, monkeypatch):
    monkeypatch.setattr(reading, "PATIENCE", 0.1)
    has_ended = threading.Event()

    def stuck():
        yield from zip(X[:3], Y[:3])
        has_ended.wait(60)

    with pytest.raises(Fault) as caught:
        run.train(prefetch(stuck(), 2), "auto", cb=fail)

    assert len(caught.value.history) == 1
    has_ended.set()


@pytest.mark.parametrize("kind", ["return", "stop", "error in data", "error in objective"])
def test_a_reader_ends_though_an_error_is_held(run, kind):
    source = batches_that_end_in_a_fault() if kind == "error in data" else zip(X, Y)
    held = None

    def loss(x, y):
        return fail() if kind == "error in objective" else run.loss(x, y)

    try:
        run.train(prefetch(source, 2), "auto", loss, cb=stop if kind == "stop" else None)
    except Fault as error:
        held = error
    deadline = time.monotonic() + 10
    while [t for t in threading.enumerate() if t.name == "fluxkeras.prefetch"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (held is not None) == kind.startswith("error")


W = param(1.0)
STILL = ADAM([W], 0.0)  # makes steps of no length


def losses_of(loss, data, form):
    return train(loss, data, STILL, form=form, chunk=4, progress=False).losses


# --- Data of other kinds --------------------------------------------------------------------------


class Frame:
    """Converts to an array, as a pandas DataFrame does."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.array, dtype)


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def strided(x):
    return np.repeat(x, 3, axis=0)[::3]


def of_a_record(x):
    """One field of a structured array: its elements lie apart, and at odd places."""
    records = np.zeros(x.shape, [("flag", "u1"), ("x", x.dtype)])
    records["x"] = x
    return records["x"]


def in_a_file(x):
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile() as file:
        mapped = np.memmap(file.name, x.dtype, "w+", shape=x.shape)
        mapped[...] = x
        return mapped


KINDS = {
    "read-only": read_only,
    "strided": strided,
    "reversed": lambda x: x[::-1].copy()[::-1],
    "Fortran order": np.asfortranarray,
    "broadcast": lambda x: np.broadcast_to(x[None], (1, *x.shape))[0],
    "of a record": of_a_record,
    "big-endian": lambda x: x.astype(">f4"),
    "big-endian float64": lambda x: x.astype(">f8"),
    "float64": lambda x: x.astype("f8"),
    "matrix": np.asmatrix,
    "mapped to memory": in_a_file,
    "masked nowhere": np.ma.masked_array,
    "masked, but nothing is": lambda x: np.ma.masked_array(x, np.zeros(x.shape, bool)),
    "frame": Frame,
    "nested lists": lambda x: x.tolist(),
    "tensor": tf.constant,
    "variable": tf.Variable,
    "Keras's variable": keras.Variable,
}
FEW_FORMS = ["single", "graph", "xla"]


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("form", FEW_FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_of_any_kind_train_as_plain_ones(run, kind, form):

    run.train([(KINDS[kind](x), y) for x, y in zip(X, Y)], form)

    is_after(run, len(X), form)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.filterwarnings("ignore:form='(xla|graph)' is not for this objective")
@pytest.mark.parametrize("form", FEW_FORMS)
def test_kinds_of_arrays_may_change_from_batch_to_batch(run, form):
    kinds = [*KINDS.values(), tf.sparse.from_dense]
    data = [(kind(x), y) for kind, x, y in zip(kinds * 2, [*X] * 9, [*Y] * 9)]

    def loss(x, y):
        return run.loss(tf.sparse.to_dense(x) if isinstance(x, tf.SparseTensor) else x, y)

    history = run.train(data, form, loss)

    plain = list(zip([*X] * 9, [*Y] * 9))[: len(data)]
    expected = run.reset().train(plain, form)
    np.testing.assert_allclose(history.losses, expected.losses, rtol=1e-4)


NUMBERS = {
    "float16": ("f2", lambda x: x),
    "float32": ("f4", lambda x: x),
    "bool": ("?", lambda x: x),
    "int8": ("i1", lambda x: x),
    "int64": ("i8", lambda x: x),
    "uint64": ("u8", lambda x: x),
    "complex64": ("c8", tf.math.real),
    "complex128": ("c16", tf.math.real),
}


def has_complex():
    try:
        return bool(keras.backend.standardize_dtype("complex64"))
    except ValueError:
        return False


@pytest.mark.parametrize("form", FEW_FORMS)
@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_of_any_kind_train(kind, form):
    dtype, real = NUMBERS[kind]
    if kind.startswith("complex") and not has_complex():
        pytest.skip("this Keras has no complex numbers")
    x = np.array([[0, 1, 1], [1, 1, 0]]).astype(dtype)

    losses = losses_of(lambda x: tf.reduce_sum(W * tf.cast(real(x), "float32")), [x] * 5, form)

    np.testing.assert_array_equal(losses, [4.0] * 5)


@pytest.mark.filterwarnings("ignore:form='xla' is not for this objective")
@pytest.mark.parametrize("form", FEW_FORMS)
def test_texts_train(form):
    texts = [np.array(["a", "bcd"]), ["ef", ""], np.array(["a", b"bcd"], object), np.array([b"12"])]

    def loss(x):
        return W * tf.cast(tf.reduce_sum(tf.strings.length(x)), "float32")

    np.testing.assert_array_equal(losses_of(loss, texts, form), [4.0, 2.0, 4.0, 2.0])


@pytest.mark.filterwarnings("ignore:form='(xla|graph)' is not for this objective")
@pytest.mark.parametrize("form", FEW_FORMS)
@pytest.mark.parametrize(
    ("data", "add"),
    [
        (tf.sparse.from_dense([[0.0, 1.0], [2.0, 3.0]]), tf.sparse.reduce_sum),
        (tf.ragged.constant([[1.0], [2.0, 3.0]]), tf.reduce_sum),
    ],
)
def test_sparse_and_ragged_tensors_train(data, add, form):
    losses = losses_of(lambda x: W * add(x), [data] * 3, form)

    np.testing.assert_array_equal(losses, [6.0] * 3)


REFUSED = {
    "object": np.array([1.0, None], object),
    "objects": np.array([object()]),
    "structured": np.zeros(2, [("a", "f4"), ("b", "i4")]),
    "times": np.array(["2026-01-01"], "M8[D]"),
    "ragged lists": [[1.0], [2.0, 3.0]],
    "no number": object(),
    "a generator": (i for i in range(3)),
    "a set": {1, 2},
    "too large": 2**70,
    "masked": np.ma.masked_array([1.0, 2.0], [True, False]),
    "masked in a list": np.ma.masked_array([[1.0, 2.0]], [[False, True]]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_tensor_is_refused_with_its_place(run, kind, form):
    data = [*zip(X[:AT], Y[:AT]), (X[AT], {"y": [Y[AT], REFUSED[kind]]})]
    message = rf"cannot make a tensor of batch {AT}\[1\]\['y'\]\[1\]"

    with pytest.raises(TypeError, match=message) as caught:
        run.train(data, form)

    assert len(caught.value.history) == AT
    is_after(run, AT, form)


def test_masked_elements_are_to_be_filled():
    masked = np.ma.masked_array([1.0, 2.0], [True, False])

    with pytest.raises(TypeError, match=r"some of its elements are masked.*\.filled\(0\)\.$"):
        train(lambda x: x, [masked], ADAM(), progress=False)


# --- Shapes that change, and batches of no size ---------------------------------------------------


def rows(x, i):
    """A part of a batch, of a changing number of rows."""
    return x[: 1 + i % 5]


@pytest.mark.parametrize("form", FORMS)
def test_shapes_types_and_structures_may_change(form):
    data = []
    for i, x in enumerate([*X] * 3):
        x = rows(x, i)
        data.append([(x, 1.0), (x.astype("f8"), 1), {"x": x, "scale": 1}, [x, [1.0, 1.0]]][i % 4])

    def loss(x, scale=None):
        if isinstance(x, dict):
            x, scale = x["x"], x["scale"]
        elif isinstance(x, list):
            x, scale = x
        return W * tf.reduce_sum(x) * tf.reduce_mean(tf.cast(scale, "float32"))

    losses = losses_of(loss, data, form)

    expected = [np.sum(rows(x, i)) for i, x in enumerate([*X] * 3)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_the_mean_of_no_samples_is_not_finite_and_says_so(run, form):
    data = [*zip(X[:AT], Y[:AT]), (X[AT, :0], Y[AT, :0])]

    with pytest.raises(NonFiniteError, match=rf"^batch {AT} \(float32 \(0, 4\).* loss is nan"):
        run.train(data, form)

    is_after(run, AT, form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_end", [True, False])
def test_the_sum_of_no_samples_is_zero_and_trains_nothing(with_end, form):
    data = [np.ones((n, 2)) for n in ([2, 0, 2, 0, 0, 2] if with_end else [0] * 5)]

    losses = losses_of(lambda x: W * tf.reduce_sum(x), data, form)

    np.testing.assert_array_equal(losses, [2.0 * len(x) for x in data])


# --- Memory that is filled again ------------------------------------------------------------------


def with_an_array(values):
    buffer = np.zeros(3, "float32")
    for value in values:
        buffer[:] = value
        yield buffer


def with_a_view(values):
    buffer = np.zeros((9, 3), "float32")
    for i, value in enumerate(values):
        buffer[i % 2 :: 3] = value
        yield buffer[i % 2 :: 3]


def with_a_list(values):
    buffer = [0.0, 0.0, 0.0]
    for value in values:
        buffer[:] = [value] * 3
        yield buffer


def with_a_dict(values):
    batch = {"x": np.zeros(3, "float32"), "list": [np.zeros(3, "float32")]}
    for value in values:
        batch["x"][:] = value
        batch["list"][0][:] = value
        yield batch


def with_a_variable(values):
    variable = tf.Variable([0.0, 0.0, 0.0])
    for value in values:
        variable.assign([value] * 3)
        yield variable


def with_a_keras_variable(values):
    variable = keras.Variable([0.0, 0.0, 0.0], trainable=False)
    for value in values:
        variable.assign([value] * 3)
        yield variable


def with_tensors(values):
    for value in values:
        yield tf.fill([3], value)


def of_changing_kinds(values):
    buffer = np.zeros(3, "float32")
    for i, value in enumerate(values):
        buffer[:] = value
        yield buffer if i % 3 else tf.constant(buffer)


def means_of(x):
    return W * sum(tf.reduce_mean(part) for part in tf.nest.flatten(x))


GIVEN = {
    "as it is": lambda items: items,
    "iterator": lambda items: map(lambda item: item, items),
    "prefetch of 1": lambda items: prefetch(items, 1),
    "prefetch of 5": lambda items: prefetch(items, 5),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize(
    "source",
    [
        with_an_array, with_a_view, with_a_list, with_a_dict, with_a_variable,
        with_a_keras_variable, with_tensors, of_changing_kinds,
    ],
)  # fmt: skip
def test_memory_that_is_filled_again_trains_on_the_values_of_the_time(source, given, form):
    values = [float(i) for i in range(9)]

    losses = losses_of(means_of, GIVEN[given](source(values)), form)

    of_each = 2 if source is with_a_dict else 1
    np.testing.assert_allclose(losses, np.multiply(values, of_each), rtol=1e-6)
