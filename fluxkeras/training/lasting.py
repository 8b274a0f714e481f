"""Which rules leave weights that are not finite, for good, after a gradient that is not.

Where all do, a loop of many steps need not look at the gradients: the weights tell at its end.
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from fluxkeras.adam_rules import Adam, AdaMax, AdamW, AMSGrad, NAdam, RAdam
from fluxkeras.adaptive_rules import AdaDelta, AdaGrad, RMSProp
from fluxkeras.optimisers import Descent, Momentum, Nesterov
from fluxkeras.parameters import Variable

# They subtract a multiple of the gradient, or of its mean, whatever that is divided by. Lion, for
# one, takes the sign, which is finite.
LASTING: tuple[type, ...] = (
    *(keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.AdamW),
    *(keras.optimizers.Nadam, keras.optimizers.Adamax, keras.optimizers.RMSprop),
    *(keras.optimizers.Adagrad, keras.optimizers.Adadelta),
    *(Descent, Momentum, Nesterov, Adam, AdamW, RAdam, AdaMax, AMSGrad, NAdam),
    *(RMSProp, AdaGrad, AdaDelta),
)
# What they do otherwise where they are told to: an infinite gradient may be clipped, or wait.
EXCEPTIONS = "clipvalue", "gradient_accumulation_steps", "loss_scale_factor", "use_ema"


def is_lasting(optimiser: keras.optimizers.Optimizer, variables: Sequence[Variable]) -> bool:
    """Whether each of these variables is not finite ever after a gradient that is not."""
    is_known = type(optimiser) in LASTING
    is_plain = not any(getattr(optimiser, option, None) for option in EXCEPTIONS)
    is_free = all(getattr(v, "constraint", None) is None for v in variables)
    return is_known and is_plain and is_free


def are_finite(values: Sequence[Any], xla: bool = False) -> tf.Tensor:
    """Whether no number is NaN or infinite: then their sum is finite, too."""
    dtype = tf.float64 if any(v.dtype.size > 4 for v in values) else tf.float32
    sums = [tf.cast(_sum(tf.cast(v, dtype), xla), dtype) for v in values]
    return tf.math.is_finite(tf.add_n(sums))


def _sum(values: tf.Tensor, xla: bool) -> tf.Tensor:
    if not xla or values.shape.rank < 2:
        return tf.reduce_sum(values)
    # XLA adds one number after the other, but has a quick product of matrices.
    rows = tf.reshape(values, [-1, values.shape[-1]])
    return tf.reduce_sum(tf.matmul(tf.ones([1, tf.shape(rows)[0]], values.dtype), rows))
