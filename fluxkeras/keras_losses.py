"""Losses for Keras: those of Flux's argument order, for `compile`."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from fluxkeras.basic_losses import (
    binarycrossentropy,
    crossentropy,
    huber_loss,
    logitbinarycrossentropy,
    logitcrossentropy,
    mae,
    mse,
    msle,
    poisson_loss,
)
from fluxkeras.class_losses import binary_focal_loss, ctc_loss, focal_loss, kldivergence
from fluxkeras.margin_losses import (
    dice_coeff_loss,
    hinge_loss,
    siamese_contrastive_loss,
    squared_hinge_loss,
    tversky_loss,
)

__all__ = ["as_keras_loss"]

LOSSES = (
    mse, mae, msle, huber_loss, poisson_loss, crossentropy, logitcrossentropy, binarycrossentropy,
    logitbinarycrossentropy, kldivergence, focal_loss, binary_focal_loss, hinge_loss,
    squared_hinge_loss, siamese_contrastive_loss, dice_coeff_loss, tversky_loss, ctc_loss,
)  # fmt: skip
for _loss in LOSSES:
    keras.saving.register_keras_serializable(package="fluxkeras")(_loss)


def as_keras_loss(f: Callable[..., Any], **options: Any) -> keras.losses.Loss:
    """A loss in Flux's argument order as one of Keras's, for `compile`.

    `loss(y_true, y_pred) == f(y_pred, y_true, **options)`, for each sample, of which Keras takes
    the mean, with the weights that `fit` is given.

    Args:
        f: a loss of `(y_hat, y)`. One without `agg` is called sample by sample.
        **options: arguments of `f` by name, other than `agg`.

    Returns:
        A `keras.losses.Loss`. A model compiled with it saves and loads, if `f` is a loss of
        fluxkeras's or registered by `keras.saving.register_keras_serializable`.

    Raises:
        TypeError: `f` is no function, or does not take the options.
        ValueError: at saving, if `f` is not registered.

    Example:
        >>> m = Chain(Dense(2, 3), softmax)
        >>> m.compile("sgd", loss=as_keras_loss(focal_loss, gamma=3.0))
        >>> x, y = np.random.rand(8, 2), np.eye(3)[np.random.randint(3, size=8)]
        >>> history = m.fit(x, y, verbose=0)
        >>> bool(np.isclose(m.evaluate(x, y, verbose=0), focal_loss(m(x), y, gamma=3.0)))
        True

    Source: the losses of Keras have `(y_true, y_pred)`, those of Flux `(y_hat, y)`.
    """
    if not callable(f):
        raise TypeError(f"as_keras_loss expects a function of (y_hat, y), got {f!r}.")
    if "agg" in options:
        raise TypeError("as_keras_loss takes no agg: Keras takes the mean over the samples.")
    _check_options(f, options)
    return KerasLoss(f, options)


@keras.saving.register_keras_serializable(package="fluxkeras")
class KerasLoss(keras.losses.Loss):
    """A loss of Flux's argument order, in Keras's.

    Args:
        f: the loss.
        options: its arguments by name.
        **keras_options: those of `keras.losses.Loss`.
    """

    def __init__(
        self, f: Callable[..., Any], options: dict[str, Any], **keras_options: Any
    ) -> None:
        # TensorFlow does not take "<lambda>", nor letters that are not ASCII.
        name = getattr(f, "__name__", "loss")
        is_plain = name.isidentifier() and name.isascii()
        keras_options.setdefault("name", name if is_plain else "loss")
        super().__init__(**keras_options)
        self.f, self.options = f, options

    def call(self, y_true: Any, y_pred: Any) -> Any:
        f = functools.partial(self.f, **self.options)
        if "agg" in inspect.signature(self.f).parameters:
            return f(y_pred, y_true, agg=_mean_of_samples)
        return tf.map_fn(lambda pair: f(*pair), (y_pred, y_true), fn_output_signature=y_pred.dtype)

    def get_config(self) -> dict[str, Any]:
        name = getattr(self.f, "__name__", repr(self.f))
        registered = keras.saving.get_registered_name(self.f) if hasattr(self.f, "__name__") else ""
        if keras.saving.get_registered_object(registered) is not self.f:
            raise ValueError(
                f"the loss {name} cannot be saved, since Keras would not find it again. "
                "Decorate it with @keras.saving.register_keras_serializable()."
            )
        return {**super().get_config(), "f": registered, "options": self.options}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "KerasLoss":
        f = keras.saving.get_registered_object(config.pop("f"))
        return cls(f, config.pop("options"), **config)


def _mean_of_samples(each: Any) -> Any:
    """The mean over all axes but that of the samples."""
    return tf.reduce_mean(each, list(range(1, len(each.shape))))


def _check_options(f: Callable[..., Any], options: dict[str, Any]) -> None:
    try:
        inspect.signature(f).bind(None, None, **options)
    except TypeError as error:
        name = getattr(f, "__name__", repr(f))
        raise TypeError(
            f"as_keras_loss: {name}(y_hat, y) does not take {options}: {error}."
        ) from None
