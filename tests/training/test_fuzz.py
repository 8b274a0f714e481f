"""Any data, in any form, with any callbacks, trains as a loop by hand of ten lines does."""

import collections
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fluxkeras import (
    Chain,
    DataLoader,
    Dense,
    Momentum,
    param,
    params,
    prefetch,
    repeated,
    stop,
    throttle,
    train,
)

Point = collections.namedtuple("Point", "x y")

# --- The loop by hand -----------------------------------------------------------------------------


class Model:
    """A few parameters, whose values and optimiser can be set back."""

    def __init__(self):
        self.chain = Chain(Dense(1, 3, "tanh"), Dense(3, 1))
        self.bias = param(0.5)
        self.opt = Momentum(0.01)
        self.opt.build(self.parameters)
        self.variables = [*self.parameters, *self.opt.variables]
        self.at_first = [v.numpy() for v in self.variables]

    @property
    def parameters(self):
        return [*params(self.chain), self.bias]

    def reset(self):
        for variable, value in zip(self.variables, self.at_first, strict=True):
            variable.assign(value)

    def loss(self, *arguments):
        """Tells each place in the arguments from the others, and takes batches of no size."""
        total = tf.square(self.bias)
        for place, part in enumerate(tf.nest.flatten(arguments), start=1):
            column = tf.reshape(tf.cast(part, "float32"), [-1, 1])
            errors = tf.square(self.chain(column / place) - float(place))
            total += tf.reduce_sum(errors) / (1.0 + tf.cast(tf.size(part), "float32"))
        return total


keras.utils.set_random_seed(1)
OURS, THEIRS = Model(), Model()
THEIRS.at_first = OURS.at_first


def objective(*arguments):
    return OURS.loss(*arguments)


def by_hand(batches):
    """The losses, and what the variables are after each batch."""
    THEIRS.reset()
    losses, weights = [], []
    for arguments in batches:
        with tf.GradientTape() as tape:
            loss = THEIRS.loss(*tf.nest.map_structure(native, arguments))
        gradients = tape.gradient(loss, [v.value for v in THEIRS.parameters])
        THEIRS.opt.apply(gradients, THEIRS.parameters)
        losses.append(float(loss))
        weights.append([v.numpy() for v in THEIRS.variables])
    return losses, weights


def native(part):
    """The same in the byte order that TensorFlow takes."""
    is_array = isinstance(part, np.ndarray)
    return part.astype(part.dtype.newbyteorder("=")) if is_array else part


# --- Data -----------------------------------------------------------------------------------------

# An item of the data, made of two arrays, and the arguments that the objective is called with.
STRUCTURES = {
    "pair": lambda x, y: ((x, y), (x, y)),
    "array": lambda x, y: (x, (x,)),
    "one in a tuple": lambda x, y: ((x,), (x,)),
    "dict": lambda x, y: ({"b": x, "a": y}, ({"b": x, "a": y},)),
    "nested": lambda x, y: ((x, {"k": (y, [x, y])}), (x, {"k": (y, [x, y])})),
    "fields": lambda x, y: (Point(x, (y, y)), (Point(x, (y, y)),)),
    "list": lambda x, y: ([x, y], ([x, y],)),
    "scalars": lambda x, y: ((float(x.sum()), int(y.size)), (np.float32(x.sum()), y.size)),
    "nested lists": lambda x, y: ((x.tolist(), y), (np.asarray(x.tolist(), x.dtype), y)),
    "tensors": lambda x, y: ((tf.constant(native(x)), y), (x, y)),
}
DTYPES = ["float32", "float64", "float16", "int32", "int64", "uint8", "bool", ">f4"]
LENGTHS = {
    "one": st.integers(1, 12).map(lambda n: [2] * n),
    "smaller last": st.integers(1, 12).map(lambda n: [3] * n + [1]),
    "changing": st.lists(st.integers(0, 4), min_size=1, max_size=12),
    "no size": st.integers(1, 5).map(lambda n: [0] * n),
}


class Counted:
    """An iterator that counts what is taken from it."""

    def __init__(self, items):
        self._items = iter(items)
        self.taken = 0

    def __iter__(self):
        return self

    def __next__(self):
        item = next(self._items)
        self.taken += 1
        return item


class Sequence(keras.utils.PyDataset):
    def __init__(self, items):
        super().__init__()
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


def generator(items):
    yield from items


def filled_again(items):
    """A generator that hands over the same arrays each time, with other numbers."""
    buffers = {}

    def filled(part):
        if not isinstance(part, np.ndarray):
            return part
        key = len(order), part.shape, part.dtype.str
        order.append(key)
        buffer = buffers.setdefault(key, np.empty_like(part))
        buffer[...] = part
        return buffer

    for item in items:
        order = []
        yield tf.nest.map_structure(filled, item)


SOURCES = {
    "list": list,
    "tuple": tuple,
    "deque": collections.deque,
    "iterator": Counted,
    "generator": lambda items: generator(Counted(items)),
    "filled again": filled_again,
    "map": lambda items: map(lambda item: item, items),
    "zip": lambda items: zip(*zip(*items, strict=True), strict=True),
    "prefetch": lambda items: prefetch(filled_again(items), 3),
    "prefetch of one": lambda items: prefetch(generator(items), 1),
    "PyDataset": Sequence,
}
ONLY_TUPLES = {"zip"}


@dataclass
class Data:
    """Some data, and the arguments of each of its batches."""

    data: Any
    batches: list[Any]
    name: str

    def __repr__(self):
        return self.name


@st.composite
def of_items(draw):
    """Data that is made of items."""
    structure = draw(st.sampled_from(sorted(STRUCTURES)))
    source = draw(st.sampled_from(sorted(SOURCES)))
    dtype = draw(st.sampled_from(DTYPES))
    lengths = draw(LENGTHS[draw(st.sampled_from(sorted(LENGTHS)))])
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    items, batches = [], []
    for n in lengths:
        x, y = (rng.integers(0, 3, (n, 2)).astype(dtype) for _ in range(2))
        item, arguments = STRUCTURES[structure](x, y)
        items.append(item)
        batches.append(arguments)
    if source in ONLY_TUPLES and type(items[0]) is not tuple:
        source = "list"
    return Data(SOURCES[source](items), batches, f"{source} of {structure}, {dtype} {lengths}")


@st.composite
def of_samples(draw):
    """Data that makes its batches of arrays of samples."""
    kind = draw(st.sampled_from(["DataLoader", "DataLoader of dict", "tf.data", "tf.data of dict"]))
    samples, size = draw(st.integers(1, 24)), draw(st.integers(1, 4))
    dtype = draw(st.sampled_from(DTYPES[:-1]))
    x = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 3, (samples, 2)).astype(dtype)
    arrays = {"a": x, "b": x[:, :1]} if kind.endswith("dict") else (x, x[:, 0])
    rows = [slice(i, i + size) for i in range(0, samples, size)]
    if kind.endswith("dict"):
        batches = [({name: array[r] for name, array in arrays.items()},) for r in rows]
    else:
        batches = [tuple(array[r] for array in arrays) for r in rows]
    if kind.startswith("DataLoader"):
        data = DataLoader(arrays, size)
    else:
        data = tf.data.Dataset.from_tensor_slices(arrays).batch(size)
    return Data(data, batches, f"{kind}, {samples} samples by {size}, {dtype}")


@st.composite
def of_one_batch(draw):
    structure, n = draw(st.sampled_from(sorted(STRUCTURES))), draw(st.integers(1, 12))
    x = np.random.default_rng(draw(st.integers(0, 99))).random((2, 2)).astype("float32")
    item, arguments = STRUCTURES[structure](x, x + 1)
    return Data(repeated(item, n), [arguments] * n, f"repeated {structure}, {n}")


DATA = st.one_of(of_items(), of_samples(), of_one_batch())
FORMS = st.sampled_from(["single", "graph", "xla", "auto"])
CHUNKS = st.sampled_from([None, 1, 2, 5])
CALLBACKS = st.sampled_from(["none", "plain", "with state", "throttled", "both"])


class Watch:
    """Callbacks of some kind, and what they were called with."""

    def __init__(self, kind, stop_after=None):
        self.calls, self.states, self.now_and_then = 0, [], []
        self._stop_after = stop_after
        plain, state = self._plain, self._with_state
        throttled = throttle(lambda state: self.now_and_then.append(state), 0)
        self.cb = {
            "none": None,
            "plain": plain,
            "with state": [state],
            "throttled": throttled,
            "both": [plain, state, throttled],
        }[kind]

    def _plain(self):
        self.calls += 1
        if self.calls == self._stop_after:
            stop()

    def _with_state(self, state):
        self.states.append(state)
        if state.step + 1 == self._stop_after:
            stop()

    def check(self, kind, losses):
        assert self.calls == (len(losses) if kind in ("plain", "both") else 0)
        if kind in ("with state", "both"):
            assert [s.step for s in self.states] == list(range(len(self.states)))
            np.testing.assert_array_equal([s.loss for s in self.states], losses[: len(self.states)])
        if kind == "throttled":
            steps = [s.step for s in self.now_and_then]
            assert steps == sorted(set(steps)) and steps[-1] == len(losses) - 1
            np.testing.assert_array_equal([s.loss for s in self.now_and_then], losses[steps])


def is_as_by_hand(history, batches, steps):
    """Whether losses and variables are those of so many steps by hand."""
    losses, weights = by_hand(batches[:steps])
    assert len(history) == steps
    np.testing.assert_allclose(history.losses, losses, rtol=2e-4)
    for variable, expected in zip(OURS.variables, weights[-1], strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=2e-4, atol=1e-5)


def trains_as_by_hand(data, form, chunk, kind):
    OURS.reset()
    watch = Watch(kind)

    history = train(
        objective, data.data, OURS.opt, form=form, chunk=chunk, cb=watch.cb, progress=False
    )

    is_as_by_hand(history, data.batches, len(data.batches))
    watch.check(kind, history.losses)
    if isinstance(data.data, Counted):
        assert data.data.taken == len(data.batches)


def stops_as_by_hand(lengths, source, form, chunk, kind, stop_after):
    """Where a callback stops: no item after it has been asked for, in no form."""
    rng = np.random.default_rng(len(lengths))
    batches = [tuple(rng.random((2, n, 2), "float32")) for n in lengths]
    steps = min(stop_after, len(batches))
    counted = Counted(batches)
    OURS.reset()
    watch = Watch(kind, stop_after)

    history = train(
        objective, source(counted), OURS.opt, form=form, chunk=chunk, cb=watch.cb, progress=False
    )

    is_as_by_hand(history, batches, steps)
    assert history.stopped == (stop_after <= len(batches))
    assert counted.taken == steps


quick = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
thorough = settings(quick, max_examples=400)

of_any_kind = given(data=DATA, form=FORMS, chunk=CHUNKS, kind=CALLBACKS)
that_stops = given(
    lengths=LENGTHS["changing"],
    source=st.sampled_from([generator, iter, lambda items: map(lambda item: item, items)]),
    form=FORMS,
    chunk=CHUNKS,
    kind=st.sampled_from(["plain", "with state", "both"]),
    stop_after=st.integers(1, 12),
)


@quick
@of_any_kind
def test_any_data_trains_as_by_hand(data, form, chunk, kind):
    trains_as_by_hand(data, form, chunk, kind)


@quick
@that_stops
def test_what_a_callback_stops_has_asked_for_no_item_more(
    lengths, source, form, chunk, kind, stop_after
):
    stops_as_by_hand(lengths, source, form, chunk, kind, stop_after)


@pytest.mark.slow
@thorough
@of_any_kind
def test_much_data_trains_as_by_hand(data, form, chunk, kind):
    trains_as_by_hand(data, form, chunk, kind)


@pytest.mark.slow
@thorough
@that_stops
def test_much_that_a_callback_stops_has_asked_for_no_item_more(
    lengths, source, form, chunk, kind, stop_after
):
    stops_as_by_hand(lengths, source, form, chunk, kind, stop_after)
