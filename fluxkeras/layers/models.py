"""What is asked of a whole model, or set in all of it: its modules, output size and mode."""

import functools
import inspect
import types
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import ShapeError, undressed
from fluxkeras.layers.base import FluxLayer
from fluxkeras.layers.composite import Container
from fluxkeras.layers.core import Chain
from fluxkeras.parameters import KerasVariable

__all__ = ["modules", "outputsize", "testmode", "trainmode"]


def modules(m: Any) -> list[Any]:
    """A model and all layers and other callable objects within, each once, outermost first.

    Args:
        m: a layer, model or other callable object, or a list, tuple or dict of those.

    Returns:
        A list that begins with `m`, then goes through each part in turn before the next. Functions
        are left out.

    Example:
        >>> m = Chain(Dense(784, 64, relu), SkipConnection(Dense(64, 64), tf.add), softmax)
        >>> [type(part).__name__ for part in modules(m)]
        ['Chain', 'Dense', 'SkipConnection', 'Dense']
        >>> penalty = lambda: sum(tf.nn.l2_loss(p.kernel) for p in modules(m) if type(p) is Dense)

    Source: Flux's `modules`.
    """
    return list({id(part): part for part in _modules(m, set())}.values())


def _modules(node: Any, seen: set[int]) -> Iterator[Any]:
    if id(node) in seen:
        return
    seen.add(id(node))
    if callable(node):
        yield node
    for part in _within(node):
        yield from _modules(part, seen)


PLAIN = (
    bool | int | float | complex | str | bytes | None
    | np.ndarray | np.generic | tf.Tensor | tf.Variable | KerasVariable
    | type | types.ModuleType | types.FunctionType | types.BuiltinFunctionType
    | keras.initializers.Initializer
)  # fmt: skip


def _within(node: Any) -> list[Any]:
    """What is below an object, as far as it may have modules in it."""
    if isinstance(node, Mapping):
        parts = list(node.values())
    elif isinstance(node, list | tuple):
        parts = list(node)
    elif isinstance(node, Container):
        parts = [part for _, part in node.labelled()]
    elif isinstance(node, keras.Model):
        parts = node.layers
    elif isinstance(node, keras.Layer):
        # Keras's own records are among the attributes of a layer: only layers are looked for.
        of_layer = keras.tree.flatten([v for v in vars(node).values() if _is_plain_nest(v)])
        return [part for part in of_layer if isinstance(part, keras.Layer)]
    else:
        parts = list(vars(node).values()) if hasattr(node, "__dict__") else []
    return [part for part in parts if not isinstance(part, PLAIN)]


def _is_plain_nest(value: Any) -> bool:
    return isinstance(value, keras.Layer | list | tuple | dict)


def outputsize(m: Any, *sizes: Any, padbatch: bool = False, dtype: Any = None) -> Any:
    """The shape of what a model makes of an input of some shape, found without computing it.

    Layers of Keras's that have not seen an input yet are built by it.

    Args:
        m: a layer, model or any other callable of tensors, or a list or tuple of those, which are
            called one after another.
        *sizes: the shape of the input, `(batch, ...)`, where None stands for any batch; or several,
            as many as `m` has inputs, also as one tuple.
        padbatch: whether a batch of 1 is to be put before each of the sizes.
        dtype: that of the input, such as `"int32"` for indices; by default that of Keras.

    Returns:
        A tuple, with None for what is not known; or as many as `m` has outputs.

    Raises:
        TypeError: if a size is no tuple.
        ShapeError: if a layer gets another shape than it expects. Layers of Keras's raise their own
            errors.

    Example:
        >>> m = Chain(Dense(10, 5, relu), Dense(5, 2))
        >>> outputsize(m, (16, 10)), outputsize(m, (None, 10)), outputsize(m, (10,), padbatch=True)
        ((16, 2), (None, 2), (1, 2))

    Source: Flux's `outputsize`, whose batch is last.
    """
    match sizes:
        case [[tuple() | list(), *_] as several]:
            sizes = tuple(several)
    if not sizes or not all(isinstance(size, tuple | list) for size in sizes):
        words = ", ".join(map(repr, sizes)) or "nothing"
        raise TypeError(
            f"outputsize expects sizes as tuples, got {words}. Write outputsize(m, (32, 10))."
        )
    first = (1,) if padbatch else ()
    dtype = dtype or keras.config.floatx()
    inputs = [keras.KerasTensor((*first, *size), dtype) for size in sizes]
    model = m if isinstance(m, keras.Layer) else Chain(list(m) if isinstance(m, tuple) else m)
    try:
        output = model.compute_output_spec(inputs[0] if len(inputs) == 1 else tuple(inputs))
    except ShapeError as error:  # in Keras's words, around the one of the layer
        raised = error.__context__
        raise undressed(raised if isinstance(raised, ShapeError) else error) from None
    return keras.tree.map_structure(lambda y: tuple(y.shape), output)


def trainmode(m: Any, mode: bool | str | None = True) -> Any:
    """Have a model do what is done while training: drop, normalise by the batch, and so on.

    Every layer within that takes Keras's argument `training` follows `mode` instead: layers of
    Keras in any model, those of fluxkeras, and objects with an attribute `active`. What `fit` or
    `tf.function` has compiled of a surrounding model before stays as it is; `train` notices.

    Args:
        m: a layer or model, or a list, tuple or dict of those.
        mode: True; False, which is `testmode(m)`; or "auto" or None, to follow `training` again.

    Returns:
        `m`, changed in place.

    Raises:
        ValueError: if `mode` is none of those. Nothing has changed.

    Example:
        >>> m = Chain(Dense(2, 3), keras.layers.Dropout(0.5))
        >>> bool(tf.reduce_any(trainmode(m)(np.ones((50, 2))) == 0))
        True
        >>> m = trainmode(m, "auto")

    Source: Flux's `trainmode!`.
    """
    return _set_mode("trainmode", m, mode, active=True)


def testmode(m: Any, mode: bool | str | None = True) -> Any:
    """Have a model do what is done when it is used, also while training.

    The opposite of `trainmode`, which see.

    Args:
        m: a layer or model, or a list, tuple or dict of those.
        mode: True; False, which is `trainmode(m)`; or "auto" or None, to follow `training` again.

    Returns:
        `m`, changed in place.

    Raises:
        ValueError: if `mode` is none of those. Nothing has changed.

    Example:
        >>> m = Chain(Dense(2, 3), Dropout(0.5))
        >>> x = np.ones((50, 2))
        >>> bool(tf.reduce_all(testmode(m)(x, training=True) == m[0](x)))
        True
        >>> m = testmode(m, "auto")

    Source: Flux's `testmode!`.
    """
    return _set_mode("testmode", m, mode, active=False)


vars(testmode)["__test__"] = False  # or pytest, by its name, takes it for a test


def _set_mode(caller: str, m: Any, mode: Any, *, active: bool) -> Any:
    if not (mode is None or isinstance(mode, bool) or mode == "auto"):
        raise ValueError(f'{caller} expects True, False, "auto" or None, got {mode!r}.')
    wanted = (mode == active) if isinstance(mode, bool) else None
    for part in modules(m):
        if isinstance(part, keras.Layer) and not _is_ours(part):
            _fix_training(part, wanted)
        elif hasattr(part, "active"):
            part.active = wanted
        if isinstance(part, keras.Model):
            # Made anew when they are needed next.
            part.train_function = part.test_function = part.predict_function = None
    return m


def _is_ours(layer: keras.Layer) -> bool:
    return isinstance(layer, FluxLayer) and hasattr(layer, "active")


def _fix_training(layer: keras.Layer, active: bool | None) -> None:
    """Have a layer of Keras's called with this `training`, whatever it is given."""
    vars(layer).pop("call", None)
    call = layer.call
    if active is None or "training" not in inspect.signature(call).parameters:
        return

    @functools.wraps(call)
    def call_in_mode(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs | {"training": active})

    layer.call = call_in_mode
