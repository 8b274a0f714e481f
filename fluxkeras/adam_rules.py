"""Adam and its kin: rules with a running mean of the gradient, and of its square or size."""

from typing import Any

import tensorflow as tf
from keras import ops

from fluxkeras.hyper_parameters import Epsilon, Number, Rate
from fluxkeras.optimisers import At, Eta, Rule, Step, parameters_first, registered

__all__ = [
    "ADAM",
    "ADAMW",
    "AMSGrad",
    "AdaBelief",
    "AdaMax",
    "Adam",
    "AdamW",
    "Lion",
    "NADAM",
    "NAdam",
    "OAdam",
    "RAdam",
]

Pair = tuple[float, float]


class _TwoMeans(Rule):
    """A rule with the hyper-parameters of Adam, and two running means."""

    beta = Rate("how much of each running mean stays at each step, such as (0.9, 0.999)", pair=True)
    epsilon = Epsilon()
    slots: tuple[str, ...] = ("mean", "square")

    @parameters_first
    def __init__(
        self,
        eta: Eta = 0.001,
        beta: Pair = (0.9, 0.999),
        epsilon: float = 1e-8,
        **keras_options: Any,
    ) -> None:
        super().__init__(eta, **keras_options)
        self.beta = beta
        self.epsilon = epsilon

    def numbers(self, dtype: str) -> At:
        """Also `root` and `small`, which correct the mean square outside of the root:
        `1 / (sqrt(v / seen) + epsilon)` is `root / (sqrt(v) + small)`, and what float16 has lost of
        `v` is lost before that.
        """
        at = super().numbers(dtype)
        at.root = ops.sqrt(at.beta[1].seen)
        at.small = type(self).epsilon.of(at.epsilon * at.root, dtype, None)
        return at

    def means(self, at: At, slots: list[Any], g: Any) -> list[Any]:
        return [at.beta[0].update(slots[0], g), at.beta[1].update(slots[1], ops.square(g))]


@registered
class Adam(_TwoMeans):
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
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Descent`; also if `beta` is no pair of numbers from 0 to 1, or
            `epsilon` no number from 0.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> Adam(0.1).apply([tf.constant([5.0, -0.01])], [x])  # the first step is eta * sign(g)
        >>> print(x.numpy())
        [0.9 2.1]

    Source: Flux 0.16's `Adam`; Kingma and Ba, 2014, algorithm 1. Keras's `Adam` adds epsilon, 1e-7,
    before the correction of the means (Flux 0.6 inside the root), squares the gradients of a row
    that was looked up twice one by one, and does not move bfloat16 variables at all.
    """

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        m, v = self.means(at, slots, g)
        return [m, v], at.eta * self.direction(at, m, v)

    def direction(self, at: At, m: Any, v: Any) -> Any:
        return at.root / at.beta[0].seen * m / (ops.sqrt(v) + at.small)


@registered
class AdamW(Adam):
    """Adam with weight decay, which makes every parameter smaller by a factor at every step.

    The rule, where `step = m_hat / (sqrt(v_hat) + epsilon)` is that of `Adam`:

        x -= eta * (step + λ * x)      # coupled
        x -= eta * step + λ * x        # not coupled

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        beta: see `Adam`.
        λ: the weight decay; also as Keras calls it, `weight_decay`.
        epsilon: see `Adam`.
        couple: whether the decay is multiplied by the learning rate, and so follows its schedule.
        **keras_options: see `Descent`. `decay` is here what it was in Flux 0.6: a λ that is not
            coupled. `exclude_from_weight_decay` works as in Keras.

    Raises:
        TypeError, ValueError: see `Adam`; also if λ is no number from 0.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> AdamW(0.1, λ=2.0).apply([tf.constant([1.0, 1.0])], [x])  # x -= 0.1 * (1 + 2 * x)
        >>> print(x.numpy())
        [0.7 1.5]

    Source: Flux 0.16's `AdamW` (that of 0.6 was `couple=False`, with λ as `decay`); Loshchilov and
    Hutter, 2017. Keras's `AdamW` is the coupled one, with a decay of 0.004 by default and the
    differences of Keras's `Adam`.
    """

    λ = Number("the weight decay, such as 0.01")

    @parameters_first
    def __init__(
        self,
        eta: Eta = 0.001,
        beta: Pair = (0.9, 0.999),
        λ: float = 0.0,
        epsilon: float = 1e-8,
        *,
        couple: bool = True,
        **keras_options: Any,
    ) -> None:
        if decay := keras_options.pop("decay", 0.0):
            λ, couple = decay, False
        if (of_keras := keras_options.pop("weight_decay", None)) is not None:
            λ = of_keras
        super().__init__(eta, beta, epsilon, **keras_options)
        self.λ = λ
        self.couple = couple

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        means, step = super().transform(at, slots, x, g)
        # The underscore notwithstanding, this is how Keras's subclasses ask for it.
        if self._use_weight_decay(x):
            step = step + (at.eta * at.λ if self.couple else at.λ) * x
        return means, step


@registered
class RAdam(Adam):
    """Adam whose first steps, while the mean of the squares rests on too few, do without it.

    The rule, where `m_hat` and `v_hat` are those of `Adam`:

        most = 2 / (1 - beta[1]) - 1
        p = most - 2 * t * beta[1] ** t / (1 - beta[1] ** t)
        r = sqrt((p - 4) * (p - 2) * most / ((most - 4) * (most - 2) * p))
        x -= eta * m_hat * r / (sqrt(v_hat) + epsilon) if p > 4 else eta * m_hat

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        beta: see `Adam`.
        epsilon: see `Adam`.
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Adam`.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> RAdam(0.1).apply([tf.constant([5.0, -1.0])], [x])  # the first step is eta * g
        >>> print(x.numpy())
        [0.5 2.1]

    Source: Flux 0.16's `RAdam`; Liu and others, 2019. Keras has none.
    """

    def numbers(self, dtype: str) -> At:
        at = super().numbers(dtype)
        beta, power = at.beta[1].exact
        steps = ops.cast(self.iterations + 1, "float64")
        most = 2 / (1 - beta) - 1
        p = most - 2 * steps * power / (1 - power)
        r = ops.sqrt(ops.abs((p - 4) * (p - 2) * most / ((most - 4) * (most - 2) * p)))
        at.is_rectified, at.r = p > 4, ops.cast(r, dtype)
        return at

    def direction(self, at: At, m: Any, v: Any) -> Any:
        rectified = at.r * super().direction(at, m, v)
        return ops.where(at.is_rectified, rectified, m / at.beta[0].seen)


@registered
class OAdam(Adam):
    """Adam, optimistic that the next step is as different from this one as this from the last.

    The rule, where `step` is that of `Adam`, and `last` starts at 0:

        x -= 2 * step - last
        last = step

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        beta: see `Adam`.
        epsilon: see `Adam`.
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Adam`.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> OAdam(0.1).apply([tf.constant([5.0, -0.01])], [x])  # the first step is twice as long
        >>> print(x.numpy().round(4))
        [0.8 2.2]

    Source: Flux 0.16's `OAdam`; Daskalakis and others, 2017. Keras has none.
    """

    slots = (*Adam.slots, "last")

    @parameters_first
    def __init__(
        self, eta: Eta = 0.001, beta: Pair = (0.5, 0.9), epsilon: float = 1e-8, **keras_options: Any
    ) -> None:
        super().__init__(eta, beta, epsilon, **keras_options)

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        means, step = super().transform(at, slots, x, g)
        return [*means, step], 2 * step - slots[2]


@registered
class AdaMax(_TwoMeans):
    """Adam with a running maximum of the gradient's size, instead of the mean of its square.

    The rule, where `m` is that of `Adam`, and `u` starts at 0:

        u = max(beta[1] * u, abs(g))
        x -= eta / (1 - beta[0] ** t) * m / (u + epsilon)

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        beta: see `Adam`.
        epsilon: see `Adam`.
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Adam`.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> AdaMax(0.1).apply([tf.constant([5.0, -0.01])], [x])  # the first step is eta * sign(g)
        >>> print(x.numpy())
        [0.9 2.1]

    Source: Flux 0.16's `AdaMax` (0.6 took `eta=0.002`); Kingma and Ba, 2014, algorithm 2. Keras's
    is `Adamax(0.001, epsilon=1e-8)`, the same rule.
    """

    slots = ("mean", "largest")

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        m = at.beta[0].update(slots[0], g)
        u = ops.maximum(at.beta[1].rate * slots[1], ops.abs(g))
        return [m, u], at.eta / at.beta[0].seen * m / (u + at.epsilon)


@registered
class AMSGrad(_TwoMeans):
    """Adam that divides by the largest mean of the squares so far, and corrects none.

    The rule, where `m` and `v` are those of `Adam`, but these and `most` start at `epsilon`:

        most = max(most, v)
        x -= eta * m / (sqrt(most) + epsilon)

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        beta: see `Adam`.
        epsilon: see `Adam`.
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Adam`.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> rule = AMSGrad(0.1, (0.5, 0.75))
        >>> rule.apply([tf.constant([5.0, -1.0])], [x])  # 0.1 * (g / 2) / sqrt(g**2 / 4)
        >>> print(x.numpy())
        [0.9 2.1]

    Source: Flux 0.16's `AMSGrad`; Reddi, Kale and Kumar, 2018. Keras's `Adam(amsgrad=True)`
    corrects the means.
    """

    slots = ("mean", "square", "most")

    def start(self, slot: str) -> float:
        return float(self.epsilon)

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        m, v = self.means(at, slots, g)
        most = ops.maximum(slots[2], v)
        return [m, v, most], at.eta * m / (ops.sqrt(most) + at.epsilon)


@registered
class NAdam(_TwoMeans):
    """Adam with Nesterov's momentum.

    The rule, where `m` and `v` are those of `Adam`:

        m_hat = beta[0] * m / (1 - beta[0] ** (t + 1))
        g_hat = (1 - beta[0]) * g / (1 - beta[0] ** t)
        x -= eta * (m_hat + g_hat) / (sqrt(beta[1] * v / (1 - beta[1] ** t)) + epsilon)

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        beta: see `Adam`.
        epsilon: see `Adam`.
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Adam`.

    Example:
        >>> x = tf.Variable([1.0])
        >>> NAdam(0.1, (0.5, 0.25)).apply([tf.constant([3.0])], [x])  # 0.1 * (1/3 + 1) / (1/2)
        >>> print(x.numpy().round(4))
        [0.7333]

    Source: Flux 0.16's `NAdam` (0.6: `NADAM`, epsilon inside the root); Dozat, 2016. Keras's
    `Nadam` changes the momentum by a schedule.
    """

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        m, v = self.means(at, slots, g)
        first, second = at.beta
        seen_next = first.seen + (1 - first.seen) * first.rest  # 1 - beta ** (t + 1)
        ahead = first.rate / seen_next * m + first.rest / first.seen * g
        return [m, v], at.eta * at.root * ahead / (ops.sqrt(second.rate * v) + at.small)


@registered
class AdaBelief(Adam):
    """Adam that makes longer steps the closer a gradient is to what was expected.

    The rule, where `s` starts at 0, and `m` and all else is that of `Adam`, with `s` for `v`:

        s = beta[1] * s + (1 - beta[1]) * (g - m) ** 2 + epsilon

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        beta: see `Adam`.
        epsilon: what keeps the division finite.
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Adam`.

    Example:
        >>> x = tf.Variable([1.0])
        >>> rule = AdaBelief(0.1, (0.5, 0.75))
        >>> rule.apply([tf.constant([4.0])], [x])  # 0.1 * g / sqrt((g / 2) ** 2)
        >>> print(x.numpy())
        [0.8]

    Source: Flux 0.16's `AdaBelief`; Zhuang and others, 2020. Keras has none.
    """

    epsilon = Epsilon(least=2.0**-24)  # it adds up in `s`

    @parameters_first
    def __init__(
        self,
        eta: Eta = 0.001,
        beta: Pair = (0.9, 0.999),
        epsilon: float = 1e-16,
        **keras_options: Any,
    ) -> None:
        super().__init__(eta, beta, epsilon, **keras_options)

    def means(self, at: At, slots: list[Any], g: Any) -> list[Any]:
        m = at.beta[0].update(slots[0], g)
        return [m, at.beta[1].update(slots[1], ops.square(g - m)) + at.epsilon]


@registered
class Lion(Rule):
    """Steps of one length, in the direction of the sign of a mean of gradients.

    The rule, where `m` starts at 0:

        m = beta[1] * g + (1 - beta[1]) * m
        x -= eta * sign((beta[1] - beta[0]) * g + beta[0] * m)

    Args:
        eta: the learning rate, which is the length of a step, or before it the parameters; see
            `Descent`.
        beta: how much of the gradient there is in the mean, `beta[1]`, and how much of the mean in
            the step, `beta[0]`; each from 0 to 1.
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Descent`; also if `beta` is no pair of numbers from 0 to 1.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> Lion(0.1).apply([tf.constant([5.0, -0.01])], [x])  # eta * sign(g)
        >>> print(x.numpy())
        [0.9 2.1]

    Source: Flux 0.16's `Lion`, in which the mean forgets the faster the larger `beta[1]` is; in
    Chen and others, 2023, and in Keras's `Lion` it is the other way round.
    """

    beta = Number("the weights of gradient and mean, such as (0.9, 0.999)", most=1.0, pair=True)
    slots = ("mean",)

    @parameters_first
    def __init__(self, eta: Eta = 0.001, beta: Pair = (0.9, 0.999), **keras_options: Any) -> None:
        super().__init__(eta, **keras_options)
        self.beta = beta

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        first, second = at.beta
        m = second * g + (1 - second) * slots[0]
        return [m], at.eta * ops.sign((second - first) * g + first * m)


ADAM = Adam
ADAMW = AdamW
NADAM = NAdam
