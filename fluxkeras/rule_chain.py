"""Chains of rules, in higher precision too, and their parts: decay, clipping, accumulation."""

import numbers
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from fluxkeras.checks import NonFiniteError
from fluxkeras.hyper_parameters import Number
from fluxkeras.optimisers import OPTIONS, At, Rule, Step, parameters_first, registered
from fluxkeras.parameters import key

__all__ = [
    "AccumGrad",
    "ClipGrad",
    "ClipNorm",
    "MixedPrecision",
    "OptimiserChain",
    "SignDecay",
    "WeightDecay",
]


@registered
class WeightDecay(Rule):
    """Adds the gradient of `λ / 2 * sum(x**2)`: the L2 penalty of ridge regression.

    `g = g + λ * x`

    Args:
        λ: how strong the penalty is, or before it the parameters.
        **keras_options: what every Keras optimiser takes; not in a chain.

    Raises:
        TypeError, ValueError: λ is no number from 0.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> rule = OptimiserChain(WeightDecay(0.5), Descent(0.1))
        >>> rule.apply([tf.constant([1.0, 1.0])], [x])  # x -= 0.1 * (1 + 0.5 * x)
        >>> print(x.numpy())
        [0.85 1.8 ]

    Source: Flux's `WeightDecay`. The `weight_decay` of Keras's optimisers is not in the gradient,
    but beside the step, as in `AdamW`.
    """

    λ = Number("how strong the penalty is, such as 5e-4")
    has_rate = False

    @parameters_first
    def __init__(self, λ: float = 5e-4, **keras_options: Any) -> None:
        super().__init__(**keras_options)
        self.λ = λ

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        return [], g + at.λ * x


@registered
class SignDecay(WeightDecay):
    """Adds the gradient of `λ * sum(abs(x))`: the L1 penalty of the lasso.

    `g = g + λ * sign(x)`

    Args:
        λ: how strong the penalty is, or before it the parameters.
        **keras_options: what every Keras optimiser takes; not in a chain.

    Raises:
        TypeError, ValueError: λ is no number from 0.

    Example:
        >>> x = tf.Variable([1.0, -2.0])
        >>> rule = OptimiserChain(SignDecay(0.5), Descent(0.1))
        >>> rule.apply([tf.constant([1.0, 1.0])], [x])  # x -= 0.1 * (1 + 0.5 * sign(x))
        >>> print(x.numpy())
        [ 0.85 -2.05]

    Source: Flux 0.16's `SignDecay`.
    """

    @parameters_first
    def __init__(self, λ: float = 1e-3, **keras_options: Any) -> None:
        super().__init__(λ, **keras_options)

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        return [], g + at.λ * ops.sign(x)


@registered
class ClipGrad(Rule):
    """Keeps every element of a gradient between `-delta` and `delta`.

    `g = clip(g, -delta, delta)`

    Args:
        delta: the largest size of an element, or before it the parameters.
        **keras_options: what every Keras optimiser takes; not in a chain.

    Raises:
        TypeError, ValueError: `delta` is no number from 0.

    Example:
        >>> x = tf.Variable([0.0, 0.0, 0.0])
        >>> rule = OptimiserChain(ClipGrad(1.0), Descent(0.1))
        >>> rule.apply([tf.constant([0.3, 1.0, 7.0])], [x])
        >>> print(x.numpy())
        [-0.03 -0.1  -0.1 ]

    Source: Flux's `ClipGrad`, once `ClipValue`. Keras's is the option `clipvalue`.
    """

    delta = Number("the largest size of an element of a gradient, such as 10")
    has_rate = False

    @parameters_first
    def __init__(self, delta: float = 10.0, **keras_options: Any) -> None:
        super().__init__(**keras_options)
        self.delta = delta

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        return [], ops.minimum(ops.maximum(g, -at.delta), at.delta)


@registered
class ClipNorm(Rule):
    """Scales every gradient array whose norm is larger than `omega` to that norm.

    `g = g * min(omega / norm(g, p), 1)`

    Args:
        omega: the largest norm, or before it the parameters.
        p: which norm: `sum(abs(g)**p) ** (1 / p)`, above 0; infinity for the largest element.
        throw: whether a gradient that is not finite is an error, before anything has changed. XLA
            cannot raise, and lets it through.
        **keras_options: what every Keras optimiser takes; not in a chain.

    Raises:
        TypeError, ValueError: `omega` is no number from 0, or `p` none above 0.
        NonFiniteError: when applied, if `throw`: a gradient is not finite. In a compiled function
            it is a `tf.errors.InvalidArgumentError`.

    Example:
        >>> x = tf.Variable([0.0, 0.0])
        >>> rule = OptimiserChain(ClipNorm(1.0), Descent(1.0))
        >>> rule.apply([tf.constant([3.0, 4.0])], [x])  # whose norm is 5
        >>> print(x.numpy())
        [-0.6 -0.8]

    Source: Flux's `ClipNorm`. Keras's is the option `clipnorm`; that of all gradients together is
    `global_clipnorm`.
    """

    omega = Number("the largest norm of a gradient, such as 10")
    has_rate = False
    p: float
    throw: bool

    @parameters_first
    def __init__(
        self, omega: float = 10.0, p: float = 2.0, *, throw: bool = True, **keras_options: Any
    ) -> None:
        super().__init__(**keras_options)
        self.omega = omega
        if not isinstance(p, numbers.Real) or not float(p) > 0:
            raise ValueError(
                f"ClipNorm expects a number above 0 as p, got {p!r}. Write p=2 for the Euclidean "
                "norm, math.inf for the largest element."
            )
        self.p = float(p)
        self.throw = throw

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        # The sum of squares leaves the range of float16 at 65504.
        wide = ops.cast(g, "float32") if g.dtype.size < 4 else g
        scale = ops.minimum(ops.cast(at.omega, wide.dtype) / tf.norm(wide, ord=self.p), 1)
        return [], g * ops.cast(scale, g.dtype)

    def guards(self, gradients: Sequence[Any]) -> list[Any]:
        arrays = [g.values if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        message = (
            "ClipNorm expects gradients with a norm, got one that is not finite. Look for what "
            "made it so, or write ClipNorm(throw=False)"
        )
        checked = [g for g in arrays if g is not None and self.throw]
        if tf.executing_eagerly():
            if not all(np.isfinite(g).all() for g in checked):
                raise NonFiniteError(f"{message}.")
            return []
        return [tf.debugging.assert_all_finite(g, message) for g in checked]


@registered
class AccumGrad(Rule):
    """Collects `n` gradients, and lets their mean through at every n-th step, nothing otherwise.

    Args:
        n: how many, from 1; or before it the parameters.
        **keras_options: what every Keras optimiser takes; not in a chain.

    Raises:
        ValueError: `n` is no whole number from 1.

    Example:
        >>> x = tf.Variable([1.0])
        >>> rule = OptimiserChain(AccumGrad(2), Descent(0.1))
        >>> rule.apply([tf.constant([2.0])], [x])
        >>> print(x.numpy())
        [1.]
        >>> rule.apply([tf.constant([4.0])], [x])  # x -= 0.1 * (2 + 4) / 2
        >>> print(x.numpy())
        [0.7]

    Source: Flux's `AccumGrad`. Keras's is the option `gradient_accumulation_steps`.
    """

    slots = ("sum",)
    has_rate = False
    n: int

    @parameters_first
    def __init__(self, n: int, **keras_options: Any) -> None:
        super().__init__(**keras_options)
        if not isinstance(n, numbers.Integral) or n < 1:
            raise ValueError(
                f"AccumGrad expects a number of gradients from 1, got {n!r}. Write AccumGrad(4)."
            )
        self.n = int(n)

    def numbers(self, dtype: str) -> At:
        at = super().numbers(dtype)
        at.is_first = ops.equal(self.iterations % self.n, 0)
        return at

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        g = g / self.n
        mean = ops.where(at.is_first, g, slots[0] + g)
        return [mean], mean

    def lets_pass(self) -> Any:
        return ops.equal((self.iterations + 1) % self.n, 0)


@registered
class OptimiserChain(Rule):
    """Rules that transform a gradient in turn, as one optimiser.

    `OptimiserChain(f, g, h)` makes the step `h(g(f(gradient)))`; of no rules, the gradient.

    Args:
        *rules: rules of fluxkeras, chains among them; the parameters may come first. A rule goes
            into one chain only.
        **keras_options: what every Keras optimiser takes, under Keras's names, but for
            `gradient_accumulation_steps`, which is `AccumGrad`, and the learning rate.

    Returns:
        A Keras optimiser. Its `learning_rate` is that of the last rule which has one; what is
        assigned to it goes to all that have one.

    Raises:
        TypeError: something in it is no rule of fluxkeras.
        ValueError: a rule has Keras options or parameters of its own, or is in use elsewhere.

    Example:
        >>> OptimiserChain(ClipNorm(1.0), WeightDecay(1e-4), Descent(1e-3))
        OptimiserChain(ClipNorm(1.0, p=2.0), WeightDecay(0.0001), Descent(0.001))

    Source: Flux 0.16's `OptimiserChain`, once `Optimiser`.
    """

    has_rate = False

    @parameters_first
    def __init__(self, *rules: Any, **keras_options: Any) -> None:
        for position, rule in enumerate(rules):
            _check_part(rule, position)
            if rule in rules[:position]:
                raise ValueError(_in_use(rule, position))
        _check_chain(keras_options)
        super().__init__(**keras_options)
        self.rules = [part for rule in rules for part in rule.parts()]
        # The step counts, learning rates and hyper-parameters are saved with those of the chain.
        self.of_rules = [variable for rule in self.rules for variable in rule.variables]
        for rule in rules:
            rule.built = True

    def parts(self) -> Sequence[Rule]:
        return self.rules

    @property
    def learning_rate(self) -> Any:
        rates = [rule.learning_rate for rule in self.rules if rule.has_rate]
        return rates[-1] if rates else 1.0

    @learning_rate.setter
    def learning_rate(self, rate: Any) -> None:
        for rule in self.rules:
            if rule.has_rate:
                rule.learning_rate = rate

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        super().apply(grads, trainable_variables)
        passed = tf.constant(1, tf.int64)
        for rule in self.rules:
            go_on = rule.lets_pass()
            rule.iterations.assign_add(passed)
            if go_on is not None:
                passed *= tf.cast(go_on, tf.int64)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        del config["learning_rate"], config["decay"]
        return config | {"rules": [keras.optimizers.serialize(rule) for rule in self.rules]}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "OptimiserChain":
        rules = [keras.optimizers.deserialize(r, custom_objects) for r in config["rules"]]
        return cls(*rules, **{k: v for k, v in config.items() if k != "rules"})

    def _shown_first(self) -> list[str]:
        return [repr(rule) for rule in self.rules]


@registered
class MixedPrecision(OptimiserChain):
    """Rules whose steps are made in a higher precision than that of the parameters.

    `x32 -= step(float32(g)); x = dtype_of_x(x32)`, with a copy `x32` of each parameter `x`

    Steps that are small beside a parameter in float16 or bfloat16 add up in the copy, and would be
    rounded away in the parameter. What else is written to a parameter, such as weights that are
    loaded, goes over into its copy.

    Args:
        *rules: rules of fluxkeras, as in `OptimiserChain`; the parameters may come first.
        dtype: of the copies, and of all that the rules keep.
        **keras_options: as in `OptimiserChain`. `loss_scale_factor` keeps the small gradients of
            float16 from vanishing.

    Returns:
        A Keras optimiser, as `OptimiserChain` does. It may contain a chain, but not be in one.

    Raises:
        TypeError, ValueError: as in `OptimiserChain`; also if `dtype` is not floating-point.

    Example:
        >>> x = keras.Variable([1.0], dtype="float16")
        >>> rule = MixedPrecision(Descent(1e-4))
        >>> for _ in range(10):
        ...     rule.apply([tf.ones(1, "float16")], [x])
        >>> print(x.numpy())  # Descent(1e-4) by itself would leave it at 1
        [0.999]

    Source: Flux 0.16's `MixedPrecision`. The float16 of Keras's policy `"mixed_float16"` is that
    of the activations: its parameters are float32 in the first place.
    """

    @parameters_first
    def __init__(self, *rules: Any, dtype: str = "float32", **keras_options: Any) -> None:
        super().__init__(*rules, **keras_options)
        if not tf.as_dtype(dtype).is_floating:
            raise ValueError(f"MixedPrecision expects a floating-point dtype, got {dtype!r}.")
        self.dtype = tf.as_dtype(dtype).name

    def build(self, variables: list[Any]) -> None:
        if self.built:
            return
        self.copies = [
            self.add_variable(tuple(v.shape), "zeros", self.dtype, name="copy") for v in variables
        ]
        with tf.init_scope():
            for copy, variable in zip(self.copies, variables, strict=True):
                copy.assign(ops.cast(variable, self.dtype))
        self.__dict__["_trained"] = variables
        self.__dict__["of_parameter"] = dict(zip(map(key, variables), self.copies, strict=True))
        super().build(self.copies)

    def apply(self, grads: Sequence[Any], trainable_variables: Any = None) -> None:
        if trainable_variables is None and not self.built:
            raise ValueError("MixedPrecision expects the variables of the gradients, got none.")
        # As Keras has it: without variables, those that it was built for.
        trainable_variables = list(trainable_variables or self._trained)
        self.build(trainable_variables)
        copies = [self.of_parameter[key(v)] for v in trainable_variables]
        for copy, variable in zip(copies, trainable_variables, strict=True):
            value = tf.convert_to_tensor(variable)
            is_rounded = ops.equal(_bits(ops.cast(copy, value.dtype)), _bits(value))
            copy.assign(ops.where(is_rounded, copy, ops.cast(value, self.dtype)))
        super().apply([g if g is None else tf.cast(g, self.dtype) for g in grads], copies)
        for copy, variable in zip(copies, trainable_variables, strict=True):
            variable.assign(ops.cast(copy, variable.dtype))


def _bits(x: Any) -> Any:
    """Floats as whole numbers: XLA may compare floats in a higher precision than theirs."""
    return tf.bitcast(x, {2: tf.int16, 4: tf.int32, 8: tf.int64}[x.dtype.size])


def _check_part(rule: Any, position: int) -> None:
    if not isinstance(rule, Rule):
        raise TypeError(
            f"OptimiserChain expects rules of fluxkeras, got {rule!r} at {position}. An optimiser "
            "of Keras's makes its steps by itself: write fluxkeras.Adam, not keras.optimizers.Adam."
        )
    if isinstance(rule, MixedPrecision):
        raise ValueError(
            f"OptimiserChain expects no MixedPrecision in it, got one at {position}. Write "
            "MixedPrecision(OptimiserChain(…))."
        )
    options = [name for name in OPTIONS if getattr(rule, name)]
    if options or rule.params is not None:
        names = ", ".join(options or ["parameters"])
        raise ValueError(
            f"OptimiserChain expects rules without options of Keras's and parameters, got {names} "
            f"of {type(rule).__name__} at {position}. Give them to the chain."
        )
    if rule.built:
        raise ValueError(_in_use(rule, position))


def _in_use(rule: Rule, position: int) -> str:
    return (
        f"OptimiserChain expects new rules, got a {type(rule).__name__} at {position} that is "
        "in use already. Make another one."
    )


def _check_chain(options: dict[str, Any]) -> None:
    if options.get("gradient_accumulation_steps"):
        raise ValueError(
            "OptimiserChain expects no gradient_accumulation_steps. Put AccumGrad(n) first."
        )
    if names := [name for name in ("eta", "learning_rate", "decay") if name in options]:
        raise TypeError(
            f"OptimiserChain expects rules that have their own learning rates, got {names[0]}. "
            "Give it to a rule: OptimiserChain(ClipNorm(1), Adam(0.001))."
        )
