"""What layers add to a loss by themselves."""

from typing import Any

import keras
import tensorflow as tf

from fluxkeras.parameters import walk

__all__ = ["losses"]


def losses(*models: Any) -> tf.Tensor:
    """The sum of what the layers of models add to a loss: regularizers, `add_loss`.

    `Σ regularizer(W) + Σ added`

    What `add_loss` adds belongs to the last call of its layer: add `losses(m)` after `m(x)`.

    Args:
        *models: Keras layers and models, other Python objects (their attributes), and lists,
            tuples and dicts of those.

    Returns:
        A scalar, 0 if there are none.

    Example:
        >>> squares = keras.regularizers.L2(0.5)
        >>> m = keras.layers.Dense(1, kernel_initializer="ones", kernel_regularizer=squares)
        >>> y = m(np.ones((1, 4)))
        >>> float(losses(m))
        2.0
        >>> loss = lambda x, y: mse(m(x), y) + losses(m)

    Source: Keras's `Layer.losses`, which `fit` adds by itself.
    """
    layers = [node for node in walk(models, keras.Layer) if isinstance(node, keras.Layer)]
    added = [tf.cast(loss, keras.config.floatx()) for layer in layers for loss in layer.losses]
    return tf.add_n(added) if added else tf.zeros((), keras.config.floatx())
