"""What is done to an optimiser between steps: setup, update, adjust, flush; freeze and thaw."""

import numbers
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from fluxkeras.checks import warn
from fluxkeras.hyper_parameters import hyper_parameters
from fluxkeras.optimisers import Rule, checked_rate
from fluxkeras.parameters import KerasVariable, Variable, listed, params
from fluxkeras.rule_chain import AccumGrad, OptimiserChain

__all__ = ["adjust", "flush", "freeze", "setup", "thaw", "update"]


def setup(rule: keras.optimizers.Optimizer, model: Any) -> keras.optimizers.Optimizer:
    """A new optimiser by this rule, for the trainable variables of a model.

    Args:
        rule: a rule, or any other Keras optimiser; it stays as it is.
        model: whose `params(model)` it trains: a model, layer, variable or list of those.

    Returns:
        An optimiser like `rule` that has made its own variables, and has `params(model)` as
        `params`.

    Raises:
        TypeError: `rule` is no Keras optimiser.

    Example:
        >>> m = Chain(Dense(3, 2, σ), Dense(2, 1))
        >>> opt = setup(Adam(0.01), m)
        >>> loss = lambda m, x: tf.reduce_mean(m(x) ** 2)
        >>> history = train(loss, m, [np.ones((4, 3))], opt, progress=False)
        >>> len(opt.params), int(opt.iterations)
        (4, 1)

    Source: Flux 0.16's `Flux.setup`, whose state is a tree beside the model.
    """
    _check_optimiser("setup", rule)
    variables = params(model)
    if not variables:
        warn("setup found nothing to train: the model has no trainable variables.")
    opt = type(rule).from_config(rule.get_config())
    opt.build(variables)
    # Set by name, Keras would count the model's weights among the optimiser's own state.
    opt.__dict__["params"] = variables
    return opt


def update(
    opt: keras.optimizers.Optimizer, model: Any, gradients: Any
) -> tuple[keras.optimizers.Optimizer, Any]:
    """Make one step with gradients that are at hand.

    Args:
        opt: an optimiser from `setup`, or one that has made steps already.
        model: whose `params(model)` are changed.
        gradients: one for each of `params(model)`, in their order, in a list that may be nested;
            None where a parameter is to stay.

    Returns:
        `(opt, model)`, both changed in place.

    Raises:
        TypeError: `opt` is no Keras optimiser, or the gradients are no list.
        ValueError: `opt` is a bare rule, or there are more or fewer gradients than parameters, or
            of other shapes. Nothing has changed.

    Example:
        >>> x = param([1.0, 2.0])
        >>> opt = setup(Descent(0.5), x)
        >>> opt, x = update(opt, x, [tf.constant([1.0, 1.0])])
        >>> print(x.numpy())
        [0.5 1.5]

    Source: Flux 0.16's `Flux.update!`.
    """
    _check_optimiser("update", opt)
    if not opt.built:
        raise ValueError(
            f"update expects an optimiser that knows its parameters, got a bare rule, {opt!r}. "
            f"Write opt = setup({type(opt).__name__}(), model), once, before the first update."
        )
    variables = params(model)
    pairs = list(zip(_flat(gradients, variables), variables, strict=True))
    if pairs := [(g, v) for g, v in pairs if g is not None]:
        opt.apply(*map(list, zip(*pairs, strict=True)))
    return opt, model


def _flat(gradients: Any, variables: Sequence[Variable]) -> list[Any]:
    if not isinstance(gradients, list | tuple):
        raise TypeError(
            f"update expects a list of gradients, got {type(gradients).__name__}. It has one for "
            "each of params(model)."
        )
    flat: list[Any] = tf.nest.flatten(gradients)
    shapes = [v.shape if g is None else g.shape for g, v in zip(flat, variables, strict=False)]
    expected = [tuple(v.shape) for v in variables]
    if len(flat) != len(variables) or list(map(tuple, shapes)) != expected:
        got = [None if g is None else tuple(g.shape) for g in flat]
        raise ValueError(
            f"update expects gradients of the shapes {expected}, got {got}. There is one for each "
            "of params(model), in that order."
        )
    return flat


def adjust(
    opt: keras.optimizers.Optimizer, eta: float | None = None, **hyper: Any
) -> keras.optimizers.Optimizer:
    """Change hyper-parameters, from the next step on, also while `train` runs.

    Nothing is compiled anew.

    Args:
        opt: an optimiser. In a chain, every rule that has such a hyper-parameter takes the value.
        eta: the learning rate.
        **hyper: others, by the names that they have where the rule is made: `beta=(0.8, 0.99)`.

    Returns:
        `opt`, changed in place.

    Raises:
        TypeError, ValueError: there is no such hyper-parameter, or the value does not fit, or the
            learning rate is a schedule or a function. Nothing has changed.

    Example:
        >>> opt = OptimiserChain(ClipNorm(1.0), Adam(0.001))
        >>> adjust(opt, 0.01, omega=2.0)
        OptimiserChain(ClipNorm(2.0, p=2.0), Adam(0.01, beta=(0.9, 0.999), epsilon=1e-08))

    Source: Flux 0.16's `Flux.adjust!`, which passes over names that no rule has.
    """
    _check_optimiser("adjust", opt)
    changes = hyper if eta is None else {"eta": eta} | hyper
    if not changes:
        raise TypeError("adjust expects something to change, got nothing. Write adjust(opt, 0.01).")
    parts = opt.parts() if isinstance(opt, Rule) else [opt]
    for name, value in changes.items():
        if not any([_takes(part, name, value) for part in parts]):
            names = sorted({name for part in parts for name in _adjustable(part)})
            raise ValueError(
                f"adjust expects a hyper-parameter of {opt!r}, got {name}. "
                f"It has {', '.join(names) or 'none'}."
            )
    for part in parts:
        for name in changes.keys() & _adjustable(part):
            setattr(part, "learning_rate" if name == "eta" else name, changes[name])
    return opt


def _adjustable(part: Any) -> set[str]:
    if not isinstance(part, Rule):
        return {"eta"}
    of_rate = {"eta", "decay"}
    return (hyper_parameters(type(part)).keys() | of_rate) - (set() if part.has_rate else of_rate)


def _takes(part: Any, name: str, value: Any) -> bool:
    """Whether a rule has such a hyper-parameter; if so, the value is checked."""
    if name not in _adjustable(part):
        return False
    if name != "eta":
        hyper_parameters(type(part))[name].checked(part, value)
    elif not isinstance(value, numbers.Real):
        raise TypeError(f"adjust expects a number as the learning rate, got {value!r}.")
    elif not isinstance(part.learning_rate, KerasVariable):
        raise ValueError(
            f"adjust expects a learning rate that is a number, got a {type(part).__name__} with a "
            "schedule or a function for it. Make it with a number, Adam(0.001), to adjust that."
        )
    else:
        checked_rate(type(part).__name__, value)
    return True


def flush(opt: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Make the step of the gradients that an `AccumGrad` has collected so far, of their mean.

    `Σ gradients / k`, of the `k < n` since its last step; none, if there are none. At the end of
    data, so that the last ones count in this epoch, and as much as the others.

    Args:
        opt: a chain that begins with `AccumGrad(n)`.

    Returns:
        `opt`, which goes on collecting `n` from the start.

    Raises:
        TypeError: `opt` is no such chain. Keras's `gradient_accumulation_steps` has no way to end.

    Example:
        >>> x = param([1.0])
        >>> opt = OptimiserChain(AccumGrad(4), Descent(0.5))
        >>> history = train(lambda c: tf.reduce_sum(c * x), [0.1, 0.3], opt, progress=False)
        >>> print(x.numpy())
        [1.]
        >>> opt = flush(opt)  # x -= 0.5 * (0.1 + 0.3) / 2
        >>> print(x.numpy())
        [0.9]
    """
    first = opt.parts()[0] if isinstance(opt, OptimiserChain) and opt.parts() else opt
    if not isinstance(first, AccumGrad):
        raise TypeError(
            f"flush expects a chain that begins with AccumGrad, got {opt!r}. Write "
            "OptimiserChain(AccumGrad(4), Adam(0.001))."
        )
    if collected := int(first.iterations) % first.n:
        (sums,) = first.state
        for total in sums:
            total.assign(total * (first.n / collected))
        first.iterations.assign_add(first.n - collected - 1)
        opt.apply([tf.zeros_like(total) for total in sums])
    return opt


def freeze(*what: Any) -> None:
    """Leave parameters as they are, from the next `train` on.

    Sets `trainable = False`. A frozen Keras BatchNormalization also keeps its running statistics.

    Args:
        *what: layers, models, `keras.Variable`s, optimisers that name their parameters, and lists,
            tuples and dicts of those.

    Raises:
        TypeError: something else, such as a `tf.Variable`, which cannot be frozen. Nothing has
            changed.

    Example:
        >>> m = Chain(Dense(3, 2), Dense(2, 1))
        >>> freeze(m[0])
        >>> [tuple(p.shape) for p in params(m)]
        [(2, 1), (1,)]

    Source: Flux 0.16's `Flux.freeze!`, of a part of the optimiser's state.
    """
    _set_trainable("freeze", what, False)


def thaw(*what: Any) -> None:
    """Train frozen parameters again, from the next `train` on: the opposite of `freeze`.

    Name the parameters at the start, by `setup` or `Adam(params(m))`, before any are frozen: an
    optimiser cannot take new ones later.

    Args:
        *what: see `freeze`.

    Raises:
        TypeError: see `freeze`.

    Example:
        >>> m = Chain(Dense(3, 2), Dense(2, 1))
        >>> freeze(m)
        >>> thaw(m[1])
        >>> len(params(m))
        2

    Source: Flux 0.16's `Flux.thaw!`.
    """
    _set_trainable("thaw", what, True)


def _set_trainable(caller: str, what: Any, trainable: bool) -> None:
    for part in _freezable(caller, what):
        if isinstance(part, keras.Layer):
            _set_layer(part, trainable)
        else:
            part.trainable = trainable


def _set_layer(layer: keras.Layer, trainable: bool) -> None:
    for part in getattr(layer, "layers", ()):
        _set_layer(part, trainable)
    # What a layer is already, Keras does not hand on to the variables within: it is changed first.
    for flag in (trainable, not trainable, trainable):
        layer.trainable = flag


def _freezable(caller: str, what: Any) -> list[Any]:
    if isinstance(what, keras.Layer | KerasVariable):
        return [what]
    if isinstance(what, keras.optimizers.Optimizer) and getattr(what, "params", None):
        what = what.params
    if isinstance(what, dict):
        what = list(what.values())
    if isinstance(what, list | tuple):
        return [part for item in what for part in _freezable(caller, item)]
    got = f"a tf.Variable, {listed([what])}" if isinstance(what, tf.Variable) else repr(what)
    raise TypeError(
        f"{caller} expects layers, keras.Variables and optimisers that name their parameters, got "
        f"{got}. Make parameters with param(…)."
    )


def _check_optimiser(caller: str, opt: Any) -> None:
    if not isinstance(opt, keras.optimizers.Optimizer):
        raise TypeError(f"{caller} expects an optimiser, got {opt!r}. Write Adam(0.001).")
