"""Flux's update rules, with Flux's numbers, as Keras optimisers: their base, and the plain ones."""

import functools
import inspect
import math
import numbers
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar, TypeAlias

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from fluxkeras.hyper_parameters import Number, hyper_parameters
from fluxkeras.parameters import Variable

__all__ = ["Descent", "Momentum", "Nesterov", "Rprop", "SGD"]

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule
Eta: TypeAlias = float | Schedule | Callable[[], float]
At: TypeAlias = SimpleNamespace  # the hyper-parameters of a rule at a step
Step: TypeAlias = tuple[list[Any], Any]  # what the slots become, and what the gradient does

OPTIONS = (  # those of every Keras optimiser that change the steps
    "weight_decay clipnorm clipvalue global_clipnorm use_ema loss_scale_factor "
    "gradient_accumulation_steps"
).split()

registered = keras.saving.register_keras_serializable(package="fluxkeras")


def parameters_first(init: Callable[..., None]) -> Callable[..., None]:
    """Lets a list of parameters come before the other arguments: `Adam(params(m), 0.001)`."""

    @functools.wraps(init)
    def wrapper(self: "Rule", *args: Any, **kwargs: Any) -> None:
        rule = type(self).__name__
        parameters = None
        if args and isinstance(args[0], list | tuple):
            parameters, args = _parameters(rule, args[0]), args[1:]
        if args and self.has_rate:
            args = (checked_rate(rule, args[0]), *args[1:])
        given = {k: kwargs[k] for k in ("eta", "learning_rate") if k in kwargs}
        kwargs |= {k: checked_rate(rule, value) for k, value in given.items()}
        init(self, *args, **kwargs)
        # Set by name, Keras would count the model's weights among the optimiser's own state.
        self.__dict__["params"] = parameters

    return wrapper


def _parameters(rule: str, given: list[Any] | tuple[Any, ...]) -> list[Any]:
    for i, parameter in enumerate(given):
        if not isinstance(parameter, Variable):
            kind = type(parameter).__name__
            raise TypeError(_not_first(rule, f"a list with {kind} at index {i}"))
    if not given:
        raise ValueError(
            f"{rule} expects the parameters to train, got an empty list. Nothing would be trained: "
            "the model has no trainable variables, or is not built yet (call it on a batch first)."
        )
    return list(given)


def checked_rate(rule: str, eta: Any) -> Any:
    if isinstance(eta, numbers.Real):
        if not 0 <= float(eta) < math.inf:
            raise ValueError(
                f"{rule} expects a learning rate of 0 or more, got {eta}. "
                "It is the length of a step against the gradient."
            )
        return float(eta)
    # Models can be called too, but are no learning rates.
    if not callable(eta) or isinstance(eta, keras.Layer | tf.Module):
        raise TypeError(_not_first(rule, type(eta).__name__))
    return eta


def _not_first(rule: str, got: str) -> str:
    expected = "a learning rate or a list of parameters first"
    return f"{rule} expects {expected}, got {got}. Pass params(model)."


def _dense(gradient: Any, variable: tf.Variable) -> Any:
    """A gradient as an array. An embedding's lists a row as often as it was looked up, and the
    square of a sum is not the sum of the squares, which Keras's own rules would take.
    """
    if isinstance(gradient, tf.IndexedSlices):
        rows = variable.shape[0]
        gradient = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, rows)
    return ops.cast(gradient, variable.dtype)


def _call(class_name: str, config: dict[str, Any], **_: Any) -> str:
    """The call that makes a schedule of Keras's."""
    options = [f"{n}={v!r}" for n, v in config.items() if v is not None and n != "name"]
    return f"{class_name}({', '.join(options)})"


class Rule(keras.optimizers.Optimizer):
    """An update rule: how a gradient becomes a step.

    A subclass says what it keeps of each variable, in `slots`, and what it does, in `transform`.

    Args:
        eta: the learning rate.
        decay: at the step after `n` others the learning rate is `eta / (1 + decay * n)`.
        **keras_options: what every Keras optimiser takes.

    Attributes:
        slots: the names of the arrays that it keeps of each variable.
        has_rate: whether there is a learning rate in it.
    """

    decay = Number("how fast the learning rate falls, which is divided by 1 + decay * steps")
    slots: tuple[str, ...] = ()
    state: list[list[keras.Variable]]
    has_rate: ClassVar[bool] = True

    def __init__(self, eta: Eta = 1.0, *, decay: float = 0.0, **keras_options: Any) -> None:
        super().__init__(**{"learning_rate": eta} | keras_options)
        if decay and not self.has_rate:
            raise ValueError(
                f"{type(self).__name__} expects no decay, got {decay!r}. It has no learning rate."
            )
        self.decay = decay

    @property
    def eta(self) -> Any:
        """The learning rate, as Flux calls it."""
        return self.learning_rate

    def parts(self) -> Sequence["Rule"]:
        """The rules that transform a gradient in turn: of a chain, several."""
        return [self]

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        """The slots after a step, and what comes of the gradient: at the end, it is subtracted.

        Args:
            at: the hyper-parameters at this step, in the variable's precision.
            slots: the values of its slots.
            x: the variable.
            g: its gradient, or what the parts before have made of it.
        """
        raise NotImplementedError

    def start(self, slot: str) -> float:
        """What a slot is filled with at first."""
        return 0.0

    def lets_pass(self) -> Any:
        """Whether the parts after this one are to go on, a tensor; None: always."""
        return None

    def guards(self, gradients: Sequence[Any]) -> list[tf.Operation]:
        """What is to be run before anything is changed."""
        return []

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        self.states = [
            [self._slot(part, name, variables) for name in part.slots] for part in self.parts()
        ]
        for part, state in zip(self.parts(), self.states, strict=True):
            # Set by name, Keras would save those of a chain with its parts once more.
            part.__dict__["state"] = state

    def _slot(self, part: "Rule", name: str, variables: list[Any]) -> list[keras.Variable]:
        initializer = keras.initializers.Constant(np.float64(part.start(name)))
        add = self.add_variable_from_reference
        return [add(v, name=name, initializer=initializer) for v in variables]

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        # The numbers of a step are computed once for all of its variables.
        for part in self.parts():
            part.__dict__["_numbers"] = {}
        if trainable_variables is not None and not self.built:
            # Keras would do so below, after the guards, where XLA takes no new variables.
            self.build(list(trainable_variables))
        guards = [guard for part in self.parts() for guard in part.guards(grads)]
        try:
            with tf.control_dependencies(guards):
                super().apply(grads, trainable_variables)
        finally:
            for part in self.parts():
                part.__dict__["_numbers"] = None

    def update_step(self, gradient: Any, variable: tf.Variable, learning_rate: Any) -> None:
        parts = [(part, part.at(variable)) for part in self.parts()]
        self._follow(parts, _dense(gradient, variable), variable)

    def _follow(self, parts: list[tuple["Rule", At]], g: Any, x: tf.Variable) -> None:
        # The underscore notwithstanding, this is how Keras has subclasses find their own state.
        index = self._get_variable_index(x)
        for i, (part, at) in enumerate(parts):
            slots = [slot[index] for slot in part.state]
            values = [ops.convert_to_tensor(slot) for slot in slots]
            new, g = part.transform(at, values, x, g)
            for slot, value in zip(slots, new, strict=True):
                self.assign(slot, value)
            if (go_on := part.lets_pass()) is not None:
                rest = functools.partial(self._follow, parts[i + 1 :], g, x)
                tf.cond(go_on, rest, lambda: None)
                return
        self.assign_sub(x, g)

    def at(self, variable: tf.Variable) -> At:
        """The hyper-parameters as they are now, for a variable."""
        dtype = keras.backend.standardize_dtype(variable.dtype)
        known: dict[str, At] | None = self.__dict__.get("_numbers")
        if known is None:
            return self.numbers(dtype)
        if dtype not in known:
            known[dtype] = self.numbers(dtype)
        return known[dtype]

    def numbers(self, dtype: str) -> At:
        """The hyper-parameters as they are now, in a precision; and `eta`."""
        before = ops.cast(self.iterations, "float64")
        eta = ops.cast(self.learning_rate, "float64")
        decay = ops.convert_to_tensor(self._decay)
        named = hyper_parameters(type(self)).items()
        values = {name: number.at(self, dtype, before + 1) for name, number in named}
        return SimpleNamespace(eta=ops.cast(eta / (1 + decay * before), dtype), **values)

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name, _ in self._arguments()}
        return {**super().get_config(), **own, "decay": self.decay}

    def _arguments(self) -> list[tuple[str, inspect.Parameter]]:
        """The rule's own, in order, but for the learning rate."""
        parameters = inspect.signature(type(self)).parameters.items()
        variadic = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
        return [(n, p) for n, p in parameters if n != "eta" and p.kind not in variadic]

    def __repr__(self) -> str:
        """The call that makes the rule as it is now."""
        shown = self._shown_first()
        for name, parameter in self._arguments():
            value = getattr(self, name)
            is_plain = parameter.kind is not parameter.KEYWORD_ONLY
            if not shown:
                shown = [repr(value)]
            elif is_plain or value != parameter.default:
                shown.append(f"{name}={value!r}")
        options = {name: getattr(self, name) for name in ("decay", *OPTIONS)}
        shown += [f"{name}={value!r}" for name, value in options.items() if value]
        return f"{type(self).__name__}({', '.join(shown)})"

    def _shown_first(self) -> list[str]:
        if not self.has_rate:
            return []
        with tf.init_scope():
            rate = keras.optimizers.Optimizer.get_config(self)["learning_rate"]
        return [f"{rate:.7g}" if isinstance(rate, float) else _call(**rate)]


@registered
class Descent(Rule):
    """Gradient descent.

    The rule, where `x` is a parameter and `g` its gradient:

        x -= eta * g

    Args:
        eta: the learning rate, a number from 0, a Keras learning-rate schedule, or a function of no
            arguments, which is called when a step is compiled: to change the rate while training,
            have it read a `tf.Variable`, or assign to `learning_rate`, or call `adjust`. The
            parameters may come before it, as a list of variables: `Descent(params(m), 0.1)`. They
            are then kept as `params`, which otherwise is None.
        **keras_options: what every Keras optimiser takes, under Keras's names, such as `clipnorm`;
            `learning_rate` wins over `eta`. And `decay`, as of Flux 0.6: at the step after `n`
            others, the learning rate is `eta / (1 + decay * n)`.

    Raises:
        TypeError: the first argument is neither a learning rate nor a list of variables.
        ValueError: the learning rate or `decay` is negative or not finite, or there are no
            parameters.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> Descent([x], 0.1).apply([tf.constant([1.0, -1.0])], [x])
        >>> print(x.numpy())
        [0.9 2.1]

    Source: Flux's `Descent`, which Flux 0.6 called `SGD`; that name works too. Keras's `SGD` is the
    same with a learning rate of 0.01 by default.
    """

    @parameters_first
    def __init__(self, eta: Eta = 0.1, **keras_options: Any) -> None:
        super().__init__(eta, **keras_options)

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        return [], at.eta * g


@registered
class Momentum(Rule):
    """Gradient descent with momentum.

    The rule, where `v` starts at 0:

        v = rho * v + eta * g
        x -= v

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        rho: how much of the last step is made again, from 0 to 1.
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Descent`; also if `rho` is no number from 0 to 1.

    Example:
        >>> x, g = tf.Variable([1.0]), tf.constant([1.0])
        >>> rule = Momentum(0.1, rho=0.9)
        >>> rule.apply([g], [x])  # x -= 0.1
        >>> rule.apply([g], [x])  # x -= 0.9 * 0.1 + 0.1
        >>> print(x.numpy())
        [0.71]

    Source: Flux's `Momentum`; Polyak, 1964. Keras's is `SGD(0.01, momentum=0.9)`, the same rule.
    """

    rho = Number("how much of the last step is made again, such as 0.9", most=1.0)
    slots = ("velocity",)

    @parameters_first
    def __init__(self, eta: Eta = 0.01, rho: float = 0.9, **keras_options: Any) -> None:
        super().__init__(eta, **keras_options)
        self.rho = rho

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        (v,) = slots
        v = at.rho * v + at.eta * g
        return [v], v


@registered
class Nesterov(Momentum):
    """Gradient descent with Nesterov's momentum, which looks one step ahead.

    The rule, where `v` starts at 0:

        x -= (1 + rho) * eta * g - rho**2 * v
        v = rho * v - eta * g

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        rho: how much of the last step is made again, from 0 to 1.
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Momentum`.

    Example:
        >>> x = tf.Variable([1.0])
        >>> Nesterov(0.1, rho=0.9).apply([tf.constant([1.0])], [x])  # x -= 1.9 * 0.1
        >>> print(x.numpy())
        [0.81]

    Source: Flux 0.16's `Nesterov` (Flux 0.6 took `eta=0.01`); Nesterov, 1983. Keras's is
    `SGD(0.001, momentum=0.9, nesterov=True)`, the same rule.
    """

    @parameters_first
    def __init__(self, eta: Eta = 0.001, rho: float = 0.9, **keras_options: Any) -> None:
        super().__init__(eta, rho, **keras_options)

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        slots, v = super().transform(at, slots, x, g)
        return slots, at.rho * v + at.eta * g


@registered
class Rprop(Rule):
    """Steps whose lengths depend on the signs of the gradient alone, for whole batches.

    The rule, where `h` starts at `eta`, `old` at 0, each element by itself:

        h = min(ell[1] * h, gamma[1])  # where old * g > 0
        h = max(ell[0] * h, gamma[0])  # where old * g < 0
        old = 0 if old * g < 0 else g
        x -= h * sign(old)

    Args:
        eta: the length of the first step, or before it the parameters; see `Descent`. To change it
            later changes nothing.
        ell: the factors by which a step becomes shorter and longer.
        gamma: the shortest and the longest step.
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Descent`; also if `ell` or `gamma` is no pair of numbers from 0.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> rule = Rprop(0.1)
        >>> rule.apply([tf.constant([5.0, -0.01])], [x])  # x -= 0.1 * sign(g)
        >>> rule.apply([tf.constant([5.0, -0.01])], [x])  # x -= 1.2 * 0.1 * sign(g)
        >>> print(x.numpy().round(4))
        [0.78 2.22]

    Source: Flux 0.16's `Rprop(η, ℓ, Γ)`; Riedmiller and Braun, 1993. Keras has none.
    """

    ell = Number("the factors by which a step changes, such as (0.5, 1.2)", pair=True)
    gamma = Number("the shortest and the longest step, such as (1e-6, 50)", pair=True)
    slots = ("gradient", "length")

    @parameters_first
    def __init__(
        self,
        eta: Eta = 1e-3,
        ell: tuple[float, float] = (0.5, 1.2),
        gamma: tuple[float, float] = (1e-6, 50.0),
        **keras_options: Any,
    ) -> None:
        super().__init__(eta, **keras_options)
        self.ell = ell
        self.gamma = gamma

    def start(self, slot: str) -> float:
        with tf.init_scope():
            eta = ops.convert_to_numpy(self.learning_rate)
        return float(eta) if slot == "length" else 0.0

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        old, length = slots
        agreement = ops.sign(old) * ops.sign(g)
        longer = ops.minimum(length * at.ell[1], at.gamma[1])
        shorter = ops.maximum(length * at.ell[0], at.gamma[0])
        length = ops.where(agreement > 0, longer, ops.where(agreement < 0, shorter, length))
        g = ops.where(agreement < 0, ops.zeros_like(g), g)
        return [g, length], length * ops.sign(g)


SGD = Descent
