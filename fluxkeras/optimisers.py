"""Flux's update rules, with Flux's numbers, as Keras optimisers."""

import functools
import math
import numbers
from collections.abc import Callable
from typing import Any, TypeAlias

import keras
import tensorflow as tf
from keras import ops

from fluxkeras.parameters import Variable

__all__ = ["ADAM", "ADAMW", "Adam", "AdamW", "Descent", "Momentum", "Nesterov", "RMSProp", "SGD"]

Schedule: TypeAlias = keras.optimizers.schedules.LearningRateSchedule
Rate: TypeAlias = float | Schedule | Callable[[], float]

_OPTIONS = (  # those of every Keras optimiser that change the steps
    "weight_decay clipnorm clipvalue global_clipnorm use_ema loss_scale_factor "
    "gradient_accumulation_steps"
).split()

_registered = keras.saving.register_keras_serializable(package="fluxkeras")


def _parameters_first(init: Callable[..., None]) -> Callable[..., None]:
    """Lets a list of parameters come before the learning rate: `Adam(params(m), 0.001)`."""

    @functools.wraps(init)
    def wrapper(self: keras.optimizers.Optimizer, *args: Any, **kwargs: Any) -> None:
        rule = type(self).__name__
        parameters = None
        if args and isinstance(args[0], list | tuple):
            parameters, args = _parameters(rule, args[0]), args[1:]
        if args:
            args = (_rate(rule, args[0]), *args[1:])
        kwargs |= {k: _rate(rule, kwargs[k]) for k in ("eta", "learning_rate") if k in kwargs}
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


def _rate(rule: str, eta: Any) -> Any:
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


def _call(rule: keras.optimizers.Optimizer, **arguments: Any) -> str:
    """The call that makes the rule as it is now. Arguments that are None are not shown."""
    with tf.init_scope():
        rate = rule.get_config()["learning_rate"]
    eta = f"{rate:.7g}" if isinstance(rate, float) else str(rate["class_name"])
    common = {name: getattr(rule, name) or None for name in _OPTIONS}
    options = arguments | common | arguments
    shown = [f"{name}={value!r}" for name, value in options.items() if value is not None]
    return f"{type(rule).__name__}({', '.join([eta, *shown])})"


def _dense(gradient: Any, variable: tf.Variable) -> Any:
    """A gradient as an array. An embedding's lists a row as often as it was looked up, and the
    square of a sum is not the sum of the squares, which Keras's own rules would take.
    """
    if isinstance(gradient, tf.IndexedSlices):
        rows = variable.shape[0]
        gradient = tf.math.unsorted_segment_sum(gradient.values, gradient.indices, rows)
    return ops.cast(gradient, variable.dtype)


def _decay(value: float, dtype: tf.DType) -> tf.Tensor:
    """The rate of a running mean. bfloat16 rounds 0.999 to 1, with which the mean stays zero."""
    below_one = {tf.float16: 1 - 2**-11, tf.bfloat16: 1 - 2**-8}
    return tf.constant(min(value, below_one.get(dtype, 1.0)), dtype)


def _floor(epsilon: float, dtype: tf.DType) -> float:
    """The least epsilon. A mean square in float16 may have lost all that is below 2**-24, so that
    with Flux's 1e-7 a gradient of 1e-3 makes steps of a hundred times the learning rate.
    """
    return 2.0**-12 if epsilon and dtype == tf.float16 else 0.0


@_registered
class Descent(keras.optimizers.SGD):
    """Gradient descent.

    The rule, where `x` is a parameter and `g` its gradient:

        x -= eta * g

    Args:
        eta: the learning rate, a number from 0, a Keras learning-rate schedule, or a function of no
            arguments, which is called when a step is compiled: to change the rate while training,
            have it read a `tf.Variable`, or assign to `learning_rate`. The parameters may come
            before it, as a list of variables: `Descent(params(m), 0.1)`. They are then kept as
            `params`, which otherwise is None.
        **keras_options: what `keras.optimizers.SGD` takes, under Keras's names, such as `clipnorm`
            or `momentum`. `learning_rate` wins over `eta`.

    Raises:
        TypeError: the first argument is neither a learning rate nor a list of variables.
        ValueError: the learning rate is negative or not finite, or there are no parameters.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> Descent([x], 0.1).apply([tf.constant([1.0, -1.0])], [x])
        >>> print(x.numpy())
        [0.9 2.1]

    Source: Flux's `Descent`, which Flux 0.6 called `SGD`; that name works too. Keras's `SGD` is the
    same with a learning rate of 0.01 by default.
    """

    @_parameters_first
    def __init__(self, eta: Rate = 0.1, **keras_options: Any) -> None:
        super().__init__(**{"learning_rate": eta} | keras_options)

    def __repr__(self) -> str:
        return _call(self, momentum=self.momentum or None, nesterov=self.nesterov or None)


@_registered
class Momentum(keras.optimizers.SGD):
    """Gradient descent with momentum.

    The rule, where `v` starts at 0:

        v = rho * v + eta * g
        x -= v

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        rho: how much of the last step is made again, from 0 to 1.
        **keras_options: what `keras.optimizers.SGD` takes, under Keras's names.

    Raises:
        TypeError, ValueError: see `Descent`; ValueError also if `rho` is not from 0 to 1.

    Example:
        >>> x, g = tf.Variable([1.0]), tf.constant([1.0])
        >>> rule = Momentum(0.1, rho=0.9)
        >>> rule.apply([g], [x])  # x -= 0.1
        >>> rule.apply([g], [x])  # x -= 0.9 * 0.1 + 0.1
        >>> print(x.numpy())
        [0.71]

    Source: Flux's `Momentum`; Polyak, 1964. Keras's is `SGD(0.01, momentum=0.9)`, the same rule.
    """

    @_parameters_first
    def __init__(self, eta: Rate = 0.01, rho: float = 0.9, **keras_options: Any) -> None:
        super().__init__(**{"learning_rate": eta, "momentum": float(rho)} | keras_options)

    def __repr__(self) -> str:
        return _call(self, rho=self.momentum, nesterov=self.nesterov or None)


@_registered
class Nesterov(keras.optimizers.SGD):
    """Gradient descent with Nesterov's momentum, which looks one step ahead.

    The rule, where `v` starts at 0:

        x -= (1 + rho) * eta * g - rho**2 * v
        v = rho * v - eta * g

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        rho: how much of the last step is made again, from 0 to 1.
        **keras_options: what `keras.optimizers.SGD` takes, under Keras's names.

    Raises:
        TypeError, ValueError: see `Descent`; ValueError also if `rho` is not from 0 to 1.

    Example:
        >>> x = tf.Variable([1.0])
        >>> Nesterov(0.1, rho=0.9).apply([tf.constant([1.0])], [x])  # x -= 1.9 * 0.1
        >>> print(x.numpy())
        [0.81]

    Source: Flux 0.16's `Nesterov` (Flux 0.6 took `eta=0.01`); Nesterov, 1983. Keras's is
    `SGD(0.001, momentum=0.9, nesterov=True)`, the same rule.
    """

    @_parameters_first
    def __init__(self, eta: Rate = 0.001, rho: float = 0.9, **keras_options: Any) -> None:
        options = {"learning_rate": eta, "momentum": float(rho), "nesterov": True}
        super().__init__(**options | keras_options)

    def __repr__(self) -> str:
        return _call(self, rho=self.momentum)


@_registered
class RMSProp(keras.optimizers.Optimizer):
    """Gradient descent, divided by the root of the running mean of the squared gradient.

    The rule, where `q` and `l` start at 0, and `l` stays there unless `centred`:

        q = rho * q + (1 - rho) * g**2
        l = rho * l + (1 - rho) * g
        x -= eta * g / (sqrt(q - l**2) + epsilon)

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        rho: the rate at which the running means forget, from 0 to 1: they span about
            `1 / (1 - rho)` steps.
        epsilon: what keeps the division finite, in units of the gradient. For float16 variables
            at least 2**-12, unless it is 0.
        centred: whether to divide by the standard deviation of the gradient instead.
        **keras_options: what every Keras optimiser takes, under Keras's names, such as `clipnorm`.

    Raises:
        TypeError, ValueError: see `Descent`.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> RMSProp(0.1, rho=0.75).apply([tf.constant([3.0, -3.0])], [x])  # 0.1 * 3 / sqrt(9 / 4)
        >>> print(x.numpy())
        [0.8 2.2]

    Source: Flux 0.16's `RMSProp`; Hinton, 2012; centred: Graves, 2013. Keras's `RMSprop` adds
    epsilon, 1e-7, inside the root, as Flux 0.6 did.
    """

    @_parameters_first
    def __init__(
        self,
        eta: Rate = 0.001,
        rho: float = 0.9,
        epsilon: float = 1e-8,
        *,
        centred: bool = False,
        **keras_options: Any,
    ) -> None:
        centred = keras_options.pop("centered", centred)
        super().__init__(**{"learning_rate": eta} | keras_options)
        self.rho = rho
        self.epsilon = epsilon
        self.centred = centred

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        super().build(variables)
        add = self.add_variable_from_reference
        self._squares = [add(v, name="square") for v in variables]
        self._means = [add(v, name="mean") for v in variables] if self.centred else []

    def update_step(self, gradient: Any, variable: tf.Variable, learning_rate: Any) -> None:
        dtype = tf.as_dtype(variable.dtype)
        eta = ops.cast(learning_rate, variable.dtype)
        rho = _decay(self.rho, dtype)
        g = _dense(gradient, variable)
        # The underscore notwithstanding, this is how Keras has subclasses find their own state.
        index = self._get_variable_index(variable)
        q = self._squares[index]
        self.assign(q, rho * q + (1 - rho) * ops.square(g))
        variance = ops.convert_to_tensor(q)
        if self.centred:
            mean = self._means[index]
            self.assign(mean, rho * mean + (1 - rho) * g)
            # Rounding can take the variance of a constant gradient below zero.
            variance = ops.maximum(variance - ops.square(mean), 0)
        epsilon = max(self.epsilon, _floor(self.epsilon, dtype))
        self.assign_sub(variable, eta * g / (ops.sqrt(variance) + epsilon))

    def get_config(self) -> dict[str, Any]:
        own = {"rho": self.rho, "epsilon": self.epsilon, "centred": self.centred}
        return super().get_config() | own

    def __repr__(self) -> str:
        return _call(self, rho=self.rho, epsilon=self.epsilon, centred=self.centred or None)


@_registered
class Adam(keras.optimizers.Adam):
    """Momentum, divided by the root of the running mean of the squared gradient.

    The rule at step `t = 1, 2, …`, where `m` and `v` start at 0:

        m = beta[0] * m + (1 - beta[0]) * g
        v = beta[1] * v + (1 - beta[1]) * g**2
        m_hat, v_hat = m / (1 - beta[0] ** t), v / (1 - beta[1] ** t)
        x -= eta * m_hat / (sqrt(v_hat) + epsilon)

    Args:
        eta: the learning rate, about the length of a step, or before it the parameters; see
            `Descent`.
        beta: the rates at which the running means `m` and `v` forget, each from 0 to 1: they span
            about `1 / (1 - beta)` steps.
        epsilon: what keeps the division finite, in units of the gradient. For float16 variables
            at least 2**-12, unless it is 0.
        **keras_options: what `keras.optimizers.Adam` takes, under Keras's names, such as `beta_1`
            or `clipnorm`.

    Raises:
        TypeError, ValueError: see `Descent`. TypeError also if `beta` is not a pair.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> Adam(0.1).apply([tf.constant([5.0, -0.01])], [x])  # the first step is eta * sign(g)
        >>> print(x.numpy())
        [0.9 2.1]

    Source: Flux 0.16's `Adam`; Kingma and Ba, 2014, algorithm 1. Keras's `Adam` adds epsilon, 1e-7,
    before the correction of the means (Flux 0.6 inside the root), squares the gradients of a row
    that was looked up twice one by one, and does not move bfloat16 variables at all.
    """

    @_parameters_first
    def __init__(
        self,
        eta: Rate = 0.001,
        beta: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        **keras_options: Any,
    ) -> None:
        if not isinstance(beta, list | tuple) or len(beta) != 2:
            raise TypeError(
                f"{type(self).__name__} expects a pair of numbers as beta, got {beta!r}. "
                "Pass beta=(0.9, 0.999), or beta_1=0.9 for the first alone."
            )
        options = {"learning_rate": eta, "beta_1": beta[0], "beta_2": beta[1], "epsilon": epsilon}
        super().__init__(**options | keras_options)

    def update_step(self, gradient: Any, variable: tf.Variable, learning_rate: Any) -> None:
        """Keras's rule, with numbers that make it Flux's.

        `m_hat / (sqrt(v_hat) + epsilon)` is what Keras computes, if its epsilon is that of Flux
        times `sqrt(1 - beta[1] ** t)`. The other two are given in the variable's precision, which
        Keras rounds in one place, but not in the other.
        """
        dtype = tf.as_dtype(variable.dtype)
        mine = {"beta_1": self.beta_1, "beta_2": self.beta_2, "epsilon": self.epsilon}
        beta_1, beta_2 = _decay(self.beta_1, dtype), _decay(self.beta_2, dtype)
        correction = ops.sqrt(1 - ops.power(beta_2, ops.cast(self.iterations + 1, variable.dtype)))
        epsilon = ops.maximum(self.epsilon * correction, _floor(self.epsilon, dtype))
        try:
            self.__dict__ |= {"beta_1": beta_1, "beta_2": beta_2, "epsilon": epsilon}
            super().update_step(_dense(gradient, variable), variable, learning_rate)
        finally:
            self.__dict__ |= mine

    def __repr__(self) -> str:
        beta, amsgrad = (self.beta_1, self.beta_2), self.amsgrad or None
        return _call(self, beta=beta, epsilon=self.epsilon, amsgrad=amsgrad)


@_registered
class AdamW(Adam, keras.optimizers.AdamW):
    """Adam with weight decay, which makes every parameter smaller by a factor at every step.

    The rule, where `step = m_hat / (sqrt(v_hat) + epsilon)` is that of `Adam`:

        x -= eta * (step + λ * x)      # coupled
        x -= eta * step + λ * x        # not coupled

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        beta: see `Adam`.
        λ: the weight decay; Keras's `weight_decay`.
        epsilon: see `Adam`.
        couple: whether the decay is multiplied by the learning rate, and so follows its schedule.
        **keras_options: what `keras.optimizers.AdamW` takes, under Keras's names.

    Raises:
        TypeError, ValueError: see `Adam`.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> AdamW(0.1, λ=2.0).apply([tf.constant([1.0, 1.0])], [x])  # x -= 0.1 * (1 + 2 * x)
        >>> print(x.numpy())
        [0.7 1.5]

    Source: Flux 0.16's `AdamW` (that of 0.6 was `couple=False`, with λ as `decay`); Loshchilov and
    Hutter, 2017. Keras's `AdamW` is the coupled one, with a decay of 0.004 by default and the
    differences of Keras's `Adam`.
    """

    @_parameters_first
    def __init__(
        self,
        eta: Rate = 0.001,
        beta: tuple[float, float] = (0.9, 0.999),
        λ: float = 0.0,
        epsilon: float = 1e-8,
        *,
        couple: bool = True,
        **keras_options: Any,
    ) -> None:
        super().__init__(eta, beta, epsilon, **{"weight_decay": float(λ)} | keras_options)
        self.couple = couple
        if not couple:
            # Every name contains the empty one, so that Keras's decay, the coupled one, is off.
            super().exclude_from_weight_decay(var_names=[""])

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        if not self.couple:
            raise ValueError(
                "AdamW(couple=False) expects to decay every parameter, got some to exclude. "
                "Use couple=True, whose λ is multiplied by the learning rate."
            )
        super().exclude_from_weight_decay(var_list, var_names)

    def update_step(self, gradient: Any, variable: tf.Variable, learning_rate: Any) -> None:
        if not self.couple:
            self.assign_sub(variable, variable * self.weight_decay)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"couple": self.couple}

    def __repr__(self) -> str:
        return _call(
            self,
            beta=(self.beta_1, self.beta_2),
            λ=self.weight_decay,
            epsilon=self.epsilon,
            couple=None if self.couple else False,
            amsgrad=self.amsgrad or None,
            weight_decay=None,
        )


SGD = Descent
ADAM = Adam
ADAMW = AdamW
