"""The objective: a loss function as a Keras layer."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias, TypeVar

import keras
import tensorflow as tf

from fluxkeras.checks import undressed
from fluxkeras.parameters import Variable, raw
from fluxkeras.training.batch import unpacked

Metric: TypeAlias = keras.metrics.Metric
METRIC: type = keras.metrics.Metric
Metrics: TypeAlias = dict[str, Metric]


class Objective(keras.Layer):
    """A loss function as a layer whose `call` is the function.

    Calling it as a layer with `training=True` puts every layer that the function calls, in anyone's
    model, into training mode, and casts floating-point input to `keras.config.floatx()`.

    Args:
        loss: returns a number, or a tuple `(number, anything else)`.
        model: goes first into `loss`, if given.
        parts: Keras layers and variables that `loss` refers to. Keras clears what layers collect in
            `losses` at the start of each call, but only in layers that it knows to be within.
        reads_losses: whether its code reads those.
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        model: Any = None,
        parts: Iterable[Any] = (),
        reads_losses: bool = True,
    ) -> None:
        # Input comes in full precision; a model of another policy casts it for itself.
        super().__init__(name="objective", dtype=keras.config.floatx())
        if not callable(loss):
            raise TypeError(f"train expects a function as its objective, got {loss!r}.")
        # A tf.function keeps its traces, and would serve one of inference here, or of training
        # elsewhere.
        function = getattr(loss, "python_function", loss)
        self.function = function if model is None else functools.partial(function, model)
        self.is_converted = False
        self.parts = list(parts)
        self.reads_losses = reads_losses
        self.built = True

    @property
    def left_out(self) -> list[str]:
        """The names of layers within that have losses which the function does not read."""
        if self.reads_losses:
            return []
        found = [part for part in self.parts if isinstance(part, keras.Layer) and part.losses]
        innermost = [layer for layer in found if not getattr(layer, "layers", ())]
        return [layer.name for layer in innermost or found]

    def call(self, *arguments: Any, training: bool | None = None) -> Any:
        # AutoGraph turns Python's `if`, `for` and `while` into TensorFlow's. It is left out where
        # it is not needed, since it warns of every function whose source it cannot find, such as
        # those typed into a terminal.
        function = tf.function(self.function) if self.is_converted else self.function
        return function(*arguments)

    def evaluate(
        self, structure: Any, tensors: Any, training: bool = True
    ) -> tuple[tf.Tensor, Any]:
        """The loss of a batch, and what the function returned besides (None if nothing)."""
        return loss_and_aux(self.outputs(structure, tensors, training))

    def outputs(self, structure: Any, tensors: Any, training: bool) -> Any:
        """What the function returns for a batch."""
        arguments = unpacked(structure, tensors)
        self._check_arguments(arguments)
        return self(*arguments, training=training)

    def _check_arguments(self, arguments: tuple[Any, ...]) -> None:
        try:
            signature = inspect.signature(self.function)
        except (TypeError, ValueError):  # some built-in functions have none
            return
        try:
            signature.bind(*arguments)
        except TypeError:
            raise TypeError(
                f"the objective takes {signature}, and this batch is {len(arguments)} argument(s). "
                "A batch that is a tuple is splatted into the objective, anything else is passed "
                "whole. Data is a collection of batches: [(x, y)], not (x, y)."
            ) from None


def with_metrics(loss: Callable[..., Any], metrics: Metrics | None) -> Callable[..., Any]:
    """The objective, where metrics are updated with what it returns under their names."""
    if not metrics:
        return loss
    if not isinstance(metrics, dict) or not all(isinstance(m, METRIC) for m in metrics.values()):
        raise TypeError(
            f"metrics are expected as a dict of Keras's metrics by name, got {metrics!r}."
        )
    function = getattr(loss, "python_function", loss)
    return functools.update_wrapper(functools.partial(_measured, function, metrics), function)


def _measured(function: Callable[..., Any], metrics: Metrics, *arguments: Any) -> Any:
    value, aux = loss_and_aux(function(*arguments))
    results = {name: metric(*_given(name, aux)) for name, metric in metrics.items()}
    return value, {**aux, **results}


def _given(name: str, aux: Any) -> tuple[Any, ...]:
    if not isinstance(aux, dict) or name not in aux:
        raise ValueError(
            f"the metric {name!r} is updated with what the objective returns under its name, and "
            f"it returned no such value: return loss, {{{name!r}: (y, y_hat)}}."
        )
    return aux[name] if isinstance(aux[name], tuple) else (aux[name],)


def loss_and_aux(result: Any) -> tuple[tf.Tensor, Any]:
    """The loss in what an objective returned, and what it returned besides (None if nothing)."""
    loss, aux = result, None
    if isinstance(result, tuple) and len(result) > 1:
        loss, aux = result[0], result[1] if len(result) == 2 else result[1:]
    if loss is None or isinstance(loss, tuple | list | dict | str):
        raise TypeError(
            f"the objective must return a number, the loss, but returned {loss!r}. "
            "Is a `return` missing?"
        )
    loss = tf.convert_to_tensor(loss)
    if loss.shape.rank not in (None, 0):
        raise ValueError(
            "the objective must return a number, the loss, but returned a tensor of shape "
            f"{tuple(loss.shape)}. Reduce it, for example with tf.reduce_mean."
        )
    if not loss.dtype.is_floating:
        raise TypeError(
            f"the objective must return a floating-point loss, but returned {loss.dtype.name}, "
            "through which there is no gradient."
        )
    return tf.ensure_shape(loss, ()), tf.nest.map_structure(_as_read, aux)


def _as_read(value: Any) -> Any:
    """A variable among the results stands for its value now, before the update."""
    return tf.identity(raw(value)) if isinstance(value, Variable) else value


Traced = TypeVar("Traced")


def converting(objective: Objective, trace: Callable[[], Traced]) -> Traced:
    """What `trace` returns, which calls the objective; if need be, with its control flow converted.

    Raises:
        TypeError: the control flow cannot be converted, or NumPy computes with tensors.
    """
    try:
        return trace()
    except TypeError as error:
        first = undressed(error)
    except NotImplementedError as error:
        if "numpy" not in str(error).lower():
            raise
        raise TypeError(
            "the objective computes with NumPy what has no value while it is compiled, and through "
            "which there would be no gradient. Use TensorFlow or Keras: tf.matmul(x, W), not "
            "np.matmul(x, W); tf.exp(W), not np.exp(W)."
        ).with_traceback(undressed(error).__traceback__) from None
    # It may be a Python `if` or `for` over tensors, which AutoGraph can convert.
    objective.is_converted = True
    try:
        return trace()
    except tf.errors.OperatorNotAllowedInGraphError:
        objective.is_converted = False
        raise TypeError(
            "the objective has a Python `if`, `for` or `while` over tensors that cannot be "
            "converted: it is inside of a layer, or in a function typed into a terminal, whose "
            "source is not to be found. Put the objective into a file, or use tf.where, tf.cond or "
            "tf.map_fn."
        ) from first
    except Exception as error:
        objective.is_converted = False
        is_control_flow = isinstance(first, tf.errors.OperatorNotAllowedInGraphError)
        raise undressed(error) if is_control_flow else first from None
