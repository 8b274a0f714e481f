"""The arrays of models: as nested data, as one vector, and from one model into another."""

import functools
import inspect
import itertools
import math
import types
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NoReturn, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import ShapeError
from fluxkeras.nested import map_parts, parts_of
from fluxkeras.parameters import KerasVariable, Variable, key, listed, params, raw

__all__ = ["destructure", "loadmodel", "state", "trainables"]

Tree: TypeAlias = Any  # tuples and dicts of what is looked for; () is where there is nothing
Keep: TypeAlias = Callable[[Any], Any]
ARRAYS = Variable | np.ndarray | tf.Tensor


def _all(part: Any) -> bool:
    return True


def trainables(model: Any, *, path: bool = False) -> list[Any]:
    """The trainable variables of a model, each once: `params(model)`.

    Args:
        model: as for `params`.
        path: whether to tell where each is.

    Returns:
        A list of variables, or of pairs of a path and a variable.

    Raises:
        ValueError: a Keras layer has not made its variables yet.

    Example:
        >>> m = Chain(Dense(2, 3), Dense(3, 1, bias=False))
        >>> [(path, tuple(p.shape)) for path, p in trainables(m, path=True)]
        [('layers[0].kernel', (2, 3)), ('layers[0].bias', (3,)), ('layers[1].kernel', (3, 1))]

    Source: Flux's `trainables`.
    """
    found = params(model)
    if not path:
        return found
    paths = {key(v): place for place, v in reversed(list(_leaves(tree_of(model))))}
    return [(paths[key(v)], v) for v in found]


def state(model: Any) -> Tree:
    """The arrays of a model, trainable or not, nested as the model is.

    Args:
        model: a Keras layer or model, or anything else that `params` takes.

    Returns:
        Tuples and dicts of NumPy arrays, which later training does not change: of a layer, a dict
        of its weights by their names, with those of the layers in it as a tuple under `"layers"`.
        What has no arrays, such as a function, is `()`. `pickle` keeps it, `loadmodel` reads it.

    Raises:
        ValueError: a Keras layer has not made its variables yet.

    Example:
        >>> state(Chain(Dense(1, 2, init="ones"), softmax))["layers"]
        ({'kernel': array([[1., 1.]], dtype=float32), 'bias': array([0., 0.], dtype=float32)}, ())

    Source: Flux's `state`, which holds numbers and texts, too.
    """
    return map_parts(lambda v: np.array(raw(v)), tree_of(model))


def loadmodel(dst: Any, src: Any, *, filter: Keep = _all) -> Any:
    """Copy all arrays of one model into another of the same structure.

    A bias that only `src` has must be zero; one that only `dst` has becomes zero.

    Args:
        dst: a model, as for `state`.
        src: another, or the `state` of one, or what the second value of `destructure` returned.
        filter: a function of each part of `dst` and of `src`, such as a layer, which says whether
            to go into it. Others stay as they are.

    Returns:
        `dst`. Nothing has changed in it if an error is raised.

    Raises:
        ValueError: the structures differ, or a variable that `dst` has in two places would get two
            values. ShapeError if shapes differ.

    Example:
        >>> m, trained = Chain(Dense(2, 3)), Chain(Dense(2, 3))
        >>> m = loadmodel(m, state(trained))
        >>> bool(np.all(m(np.eye(2)) == trained(np.eye(2))))
        True

    Source: Flux's `loadmodel!`.
    """
    source = src.tree(filter) if isinstance(src, Rebuilt) else tree_of(src, ARRAYS, filter)
    loaded: dict[int, tuple[Variable, Any, str]] = {}
    for variable, array, place in _matched(tree_of(dst, keep=filter), source, ""):
        array = raw(array) if isinstance(array, Variable) else array
        _, before, elsewhere = loaded.setdefault(key(variable), (variable, array, place))
        if before is not array and not np.array_equal(before, array):
            raise ValueError(
                f"loadmodel expects one value for a variable that is shared, got others at "
                f"{elsewhere} and at {place}."
            )
    for variable, array, _ in loaded.values():
        raw(variable).assign(tf.cast(array, raw(variable).dtype))
    return dst


def destructure(model: Any) -> tuple[tf.Tensor, Callable[[Any], "Rebuilt"]]:
    """The trainable arrays of a model as one vector, and the way back.

    `rebuild(vector)(x) == model(x)`

    Args:
        model: a Keras layer or model, or a list, function or object of `param`s that is called.

    Returns:
        A vector, and a function `rebuild` of a vector of that length, which returns the model with
        its numbers: to be called, also while gradients with respect to the vector are taken, and
        for `loadmodel`. The model itself stays as it is.

    Raises:
        ValueError: a Keras layer has not made its variables yet.
        TypeError: a variable is TensorFlow's own, not one of Keras's or a `param`.
        ShapeError: when `rebuild` is called with another shape.

    Example:
        >>> m = Chain(Dense(2, 3), Dense(3, 1))
        >>> vector, rebuild = destructure(m)
        >>> vector.shape
        TensorShape([13])
        >>> rebuild(0 * vector)(np.ones((1, 2))).numpy().tolist()
        [[0.0]]

    Source: Flux's `destructure`, from Optimisers.jl.
    """
    variables = params(model)
    foreign = [v for v in variables if not isinstance(v, KerasVariable)]
    if foreign:
        raise TypeError(
            f"destructure expects Keras variables, such as param makes, got {listed(foreign)}."
        )
    dtype = keras.backend.result_type(*(v.dtype for v in variables))
    flat = [tf.reshape(tf.cast(raw(v), dtype), [-1]) for v in variables]
    vector = tf.concat(flat, 0) if flat else tf.zeros([0], dtype)
    return vector, functools.partial(Rebuilt, model, variables)


class Rebuilt:
    """A model that computes with the numbers of a vector."""

    def __init__(self, model: Any, variables: list[Any], vector: Any) -> None:
        sizes = [math.prod(v.shape) for v in variables]
        vector = tf.convert_to_tensor(vector)
        if vector.shape.rank not in (None, 1) or vector.shape[0] not in (None, sum(sizes)):
            raise ShapeError(
                f"destructure's model expects a vector of shape ({sum(sizes)},), got "
                f"{tuple(vector.shape)}."
            )
        self._model = model
        self._values = [
            (v, tf.cast(tf.reshape(piece, v.shape), v.dtype))
            for v, piece in zip(variables, tf.split(vector, sizes) if sizes else [], strict=True)
        ]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with keras.StatelessScope(state_mapping=self._values):
            return self._model(*args, **kwargs)

    def tree(self, keep: Keep) -> Tree:
        """The arrays that it computes with."""
        values = {key(v): value for v, value in self._values}
        return map_parts(lambda v: values.get(key(v), v), tree_of(self._model, keep=keep))

    def __repr__(self) -> str:
        return f"destructure({self._model!r})[1](…)"


def tree_of(
    node: Any, leaves: Any = Variable, keep: Keep = _all, above: frozenset[int] = frozenset()
) -> Tree:
    """What is a leaf in here, nested as it is found, without the parts that are not to be kept."""
    if id(node) in above or (above and not keep(node)):  # it refers to itself, or is left out
        return ()
    if isinstance(node, leaves):
        return node
    descend = functools.partial(tree_of, leaves=leaves, keep=keep, above=above | {id(node)})
    if isinstance(node, tuple | list | set | frozenset):
        return tuple(map(descend, node))
    if isinstance(node, keras.Layer):
        parts = _layer_parts(node, descend)
    else:
        parts = {name: descend(part) for name, part in _named_parts(node).items()}
    return {name: part for name, part in parts.items() if parts_of(part)} or ()


def _layer_parts(layer: keras.Layer, descend: Callable[[Any], Tree]) -> dict[str, Tree]:
    params(layer)  # raises an error where there are none yet
    elements = list(layer) if hasattr(layer, "__iter__") else getattr(layer, "layers", [])
    layers = tuple(map(descend, elements))
    within = set(map(key, parts_of(tuple(map(tree_of, elements)))))
    parts: dict[str, Tree] = {}
    for variable in layer.weights:
        if key(variable) not in within:
            parts[_new_name(variable.name, parts)] = descend(variable)
    return {**parts, "layers": layers}


def _new_name(name: str, taken: Collection[str]) -> str:
    others = (f"{name}_{i}" for i in itertools.count(2))
    return next(n for n in itertools.chain([name], others) if n not in taken)


def _named_parts(node: Any) -> dict[Any, Any]:
    if isinstance(node, Mapping):
        return dict(node)
    if isinstance(node, functools.partial):
        return {"func": node.func, "args": node.args, **node.keywords}
    if isinstance(node, types.MethodType):
        return {"self": node.__self__, "func": node.__func__}
    if isinstance(node, types.FunctionType):
        return dict(inspect.getclosurevars(node).nonlocals)
    if isinstance(node, types.ModuleType | type):
        return {}
    return dict(vars(node)) if hasattr(node, "__dict__") else {}


def _leaves(tree: Tree, place: str = "") -> Iterator[tuple[str, Any]]:
    """What is in a tree, and where."""
    if isinstance(tree, Mapping | tuple):
        for name in _names(tree):
            yield from _leaves(tree[name], _within(place, name))
    else:
        yield place, tree


def _matched(dst: Tree, src: Tree, place: str) -> Iterator[tuple[Variable, Any, str]]:
    """The variables of one tree with the arrays that are in the same places of another."""
    if isinstance(dst, Variable) and isinstance(src, ARRAYS):
        if tuple(dst.shape) != tuple(src.shape):
            raise ShapeError(
                f"loadmodel expects an array of shape {tuple(dst.shape)} at {place or 'its root'}, "
                f"got {tuple(src.shape)}."
            )
        yield dst, src, place
        return
    if isinstance(dst, Variable) or isinstance(src, ARRAYS):
        _refuse(dst, src, place)
    dst, src = _with_bias(dst, src), _with_bias(src, dst)
    if set(_names(dst)) != set(_names(src)):
        _refuse(dst, src, place)
    for name in _names(dst):
        if dst[name] is None:
            if np.any(src[name]):
                raise ValueError(
                    f"loadmodel expects no bias at {_within(place, name)}, or a zero one, got "
                    f"{np.asarray(src[name])}."
                )
        elif src[name] is None:
            yield dst[name], np.zeros(dst[name].shape), _within(place, name)
        else:
            yield from _matched(dst[name], src[name], _within(place, name))


def _with_bias(tree: Tree, other: Tree) -> Tree:
    """With None for a bias that only the other one has."""
    has_bias = isinstance(other, Mapping) and isinstance(other.get("bias"), ARRAYS)
    if not has_bias or (tree and not isinstance(tree, Mapping)):
        return tree
    parts = dict(tree or {})
    return {**parts, "bias": parts.get("bias")}


def _refuse(dst: Tree, src: Tree, place: str) -> NoReturn:
    raise ValueError(
        f"loadmodel expects {_described(dst)} at {place or 'its root'}, got {_described(src)}."
    )


def _described(tree: Tree) -> str:
    if isinstance(tree, Mapping):
        return ", ".join(map(str, tree))
    if isinstance(tree, tuple):
        return f"{len(tree)} parts" if tree else "nothing"
    return f"an array of shape {tuple(tree.shape)}"


def _names(tree: Tree) -> list[Any]:
    return list(tree) if isinstance(tree, Mapping) else list(range(len(tree)))


def _within(place: str, name: Any) -> str:
    if isinstance(name, int):
        return f"{place}[{name}]"
    return f"{place}.{name}" if place else str(name)
