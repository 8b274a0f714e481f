"""Rules whose steps are as long as the squares of earlier gradients let them be."""

from typing import Any

import tensorflow as tf
from keras import ops

from fluxkeras.hyper_parameters import Epsilon, Rate
from fluxkeras.optimisers import At, Eta, Rule, Step, parameters_first, registered

__all__ = ["ADADelta", "ADAGrad", "AdaDelta", "AdaGrad", "RMSProp"]


@registered
class RMSProp(Rule):
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
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Descent`; also if `rho` or `epsilon` is no number in range.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> RMSProp(0.1, rho=0.75).apply([tf.constant([3.0, -3.0])], [x])  # 0.1 * 3 / sqrt(9 / 4)
        >>> print(x.numpy())
        [0.8 2.2]

    Source: Flux 0.16's `RMSProp`; Hinton, 2012; centred: Graves, 2013. Keras's `RMSprop` adds
    epsilon, 1e-7, inside the root, as Flux 0.6 did.
    """

    rho = Rate("how much of a running mean stays at each step, such as 0.9")
    epsilon = Epsilon()

    @parameters_first
    def __init__(
        self,
        eta: Eta = 0.001,
        rho: float = 0.9,
        epsilon: float = 1e-8,
        *,
        centred: bool = False,
        **keras_options: Any,
    ) -> None:
        centred = keras_options.pop("centered", centred)
        super().__init__(eta, **keras_options)
        self.rho = rho
        self.epsilon = epsilon
        self.centred = centred
        self.slots = ("square", "mean") if centred else ("square",)

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        squares = at.rho.update(slots[0], ops.square(g))
        means = [at.rho.update(mean, g) for mean in slots[1:]]
        variance = squares
        for mean in means:
            # Rounding can take the variance of a constant gradient below zero.
            variance = ops.maximum(squares - ops.square(mean), 0)
        return [squares, *means], at.eta * g / (ops.sqrt(variance) + at.epsilon)


@registered
class AdaGrad(Rule):
    """Gradient descent, divided by the root of the sum of the squared gradients.

    The rule, where `a` starts at `epsilon`:

        a += g**2
        x -= eta * g / (sqrt(a) + epsilon)

    Args:
        eta: the learning rate, or before it the parameters; see `Descent`.
        epsilon: what keeps the division finite; see `RMSProp`.
        **keras_options: see `Descent`.

    Raises:
        TypeError, ValueError: see `Descent`; also if `epsilon` is no number from 0.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> AdaGrad(0.1).apply([tf.constant([3.0, -3.0])], [x])  # the first step is eta * sign(g)
        >>> print(x.numpy())
        [0.9 2.1]

    Source: Flux 0.16's `AdaGrad` (0.6: `ADAGrad`, `eta=0.01`, epsilon inside the root); Duchi,
    Hazan and Singer, 2011. Keras's `Adagrad` starts `a` at 0.1.
    """

    epsilon = Epsilon()
    slots = ("square",)

    @parameters_first
    def __init__(self, eta: Eta = 0.1, epsilon: float = 1e-8, **keras_options: Any) -> None:
        super().__init__(eta, **keras_options)
        self.epsilon = epsilon

    def start(self, slot: str) -> float:
        return float(self.epsilon)

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        squares = slots[0] + ops.square(g)
        return [squares], at.eta * g / (ops.sqrt(squares) + at.epsilon)


@registered
class AdaDelta(Rule):
    """Steps as long as earlier ones, in proportion to earlier gradients: no learning rate.

    The rule, where `a` and `d` start at 0:

        a = rho * a + (1 - rho) * g**2
        step = g * sqrt(d + epsilon) / sqrt(a + epsilon)
        d = rho * d + (1 - rho) * step**2
        x -= step

    Args:
        rho: the rate at which the running means forget, or before it the parameters.
        epsilon: what the first step is made of: larger values make it longer.
        **keras_options: see `Descent`. There is no learning rate, and 0.6's `decay` does nothing,
            as it did there.

    Raises:
        TypeError, ValueError: `rho` or `epsilon` is no number in range.

    Example:
        >>> x = tf.Variable([1.0, 2.0])
        >>> AdaDelta(0.75, 0.25).apply([tf.constant([1.0, -1.0])], [x])  # sqrt(1/4) / sqrt(1/2)
        >>> print(x.numpy().round(4))
        [0.2929 2.7071]

    Source: Flux's `AdaDelta` (0.6: `ADADelta`); Zeiler, 2012. Keras's is
    `Adadelta(1.0, rho=0.9, epsilon=1e-8)`, the same rule.
    """

    rho = Rate("how much of a running mean stays at each step, such as 0.9")
    epsilon = Epsilon(least=2.0**-24)  # inside the root
    slots = ("square", "step")
    has_rate = False

    @parameters_first
    def __init__(self, rho: float = 0.9, epsilon: float = 1e-8, **keras_options: Any) -> None:
        keras_options.pop("decay", None)
        super().__init__(**keras_options)
        self.rho = rho
        self.epsilon = epsilon

    def transform(self, at: At, slots: list[Any], x: tf.Variable, g: Any) -> Step:
        squares = at.rho.update(slots[0], ops.square(g))
        # Apart, since the product of two small numbers is 0 in float16.
        step = g * (ops.sqrt(slots[1] + at.epsilon) / ops.sqrt(squares + at.epsilon))
        return [squares, at.rho.update(slots[1], ops.square(step))], step


ADAGrad = AdaGrad
ADADelta = AdaDelta
