"""Keras's callbacks in `train`, and callbacks of `train` in Keras's `fit`."""

import contextlib
import functools
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np

from fluxkeras.training.callback_state import CallbackState
from fluxkeras.training.callbacks import Callbacks, State, StopTraining
from fluxkeras.training.captures import Captures
from fluxkeras.training.forms import Outcome
from fluxkeras.training.objective import METRIC, Metric, Metrics
from fluxkeras.training.rounds import Round, announce, current_round
from fluxkeras.training.step import Optimiser

__all__ = ["as_keras_callback"]

KerasCallback: TypeAlias = keras.callbacks.Callback

BATCH_HOOKS = "on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"

# What a callback sets in its model for whoever runs the training, rather than for the model. By the
# last, for which there is no public name, `BackupAndRestore` tells where to begin.
OF_TRAINING = {"optimizer", "stop_training", "history", "_initial_epoch"}


def as_keras_callback(f: Callable[..., Any]) -> keras.callbacks.Callback:
    """A callback of `train` as one of Keras's, for `fit`.

    `model.fit(x, y, callbacks=[as_keras_callback(throttle(f, 5))])`

    Args:
        f: a function, throttled or not, of no argument, or of the `State`: there, the loss is what
            `fit` shows, a mean since the epoch began, and `aux` a dict of its metrics. `stop()` in
            it ends `fit`.

    Returns:
        A `keras.callbacks.Callback`, which calls `f` after every batch.

    Raises:
        TypeError: `f` is no function, or takes more arguments.

    Example:
        >>> m = Chain(Dense(2, 1))
        >>> m.compile("sgd", loss=as_keras_loss(mse))
        >>> show = lambda state: print(state.step)
        >>> x, y = np.random.rand(8, 2), np.random.rand(8, 1)
        >>> fitted = m.fit(x, y, batch_size=4, verbose=0, callbacks=[as_keras_callback(show)])
        0
        1

    Source: Keras's `LambdaCallback`.
    """
    if not callable(f):
        raise TypeError(f"as_keras_callback expects a function, got {f!r}.")
    return AsKeras(f)


class AsKeras(KerasCallback):
    """See `as_keras_callback`."""

    def __init__(self, f: Callable[..., Any]) -> None:
        super().__init__()
        self._callbacks = Callbacks(f)

    def on_train_begin(self, logs: Any = None) -> None:
        self._step = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        aux = dict(logs or {})
        state = State(self._step, float(aux.pop("loss", np.nan)), aux or None, self.model)
        self._step += 1
        with self._stoppable():
            self._callbacks(state)

    def on_train_end(self, logs: Any = None) -> None:
        with self._stoppable():
            self._callbacks.finish()

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        try:
            yield
        except StopTraining:
            self.model.stop_training = True


class AllCallbacks(Callbacks):
    """The callbacks of one call of `train`: those that it calls, and Keras's.

    Args:
        cb: one or several, of either kind.
    """

    def __init__(self, cb: Any) -> None:
        several = cb if isinstance(cb, Iterable) and not callable(cb) else [cb]
        several = list(several)
        of_keras = filter(_is_of_keras, several)
        super().__init__([c for c in several if c is not None and not _is_of_keras(c)])
        self._of_keras = [callback for each in of_keras for callback in _flat(each)]
        self._key = tuple(map(id, self._of_keras))
        self._training: Any = None  # a `KerasTraining`, once it has begun

    def __bool__(self) -> bool:
        return super().__bool__() or bool(self._of_keras)

    @property
    def want_every_batch(self) -> bool:
        """Whether some of them are not throttled, or have hooks for batches."""
        return super().want_every_batch or any(map(_wants_every_batch, self._of_keras))

    @property
    def end_on_nonfinite(self) -> bool:
        """Whether there is a `TerminateOnNaN` that is not to raise an error."""
        found = [c for c in self._of_keras if isinstance(c, keras.callbacks.TerminateOnNaN)]
        return any(not getattr(c, "raise_error", False) for c in found)

    def attach(
        self,
        captured: Captures,
        optimisers: Sequence[Optimiser],
        model: Any,
        steps: int | None,
        named: Metrics | None,
    ) -> None:
        """Here is what is trained; Keras's metrics in the objective begin anew."""
        found: list[Metric] = [value for value in captured.kept if isinstance(value, METRIC)]
        for metric in found:
            metric.reset_state()
        metrics = {metric.name: metric for metric in found} | (named or {})
        if self._of_keras:
            trained = Trained(_model_of(captured, model), optimisers)
            self._make = functools.partial(KerasTraining, self._of_keras, trained, metrics, steps)

    def of_keras(self) -> list[Any]:
        """What a checkpoint is to hold of Keras's callbacks, and of the epoch as they see it."""
        return [*map(CallbackState, self._of_keras), self] if self._of_keras else []

    def state(self) -> Any:
        """What the epoch that is under way has given so far, for its end."""
        return self._training and self._training.state()

    def load_state(self, state: Any) -> None:
        """Go on within that epoch."""
        if state:
            self._training.load_state(state)

    def begin(self) -> bool:
        """Training begins, or goes on: whether this epoch is to be trained."""
        if not self._of_keras:
            return True
        this = current_round() or Round(1)
        if self._key not in this.trainings:
            this.trainings[self._key] = self._make(total=this.total)
        self._training = this.trainings[self._key]
        return bool(self._training.begin(this.epoch))

    def before(self) -> None:
        """A batch, or several in one call, is to be trained on."""
        if self._training:
            self._training.before()

    def __call__(self, state: State, outcome: Any = None) -> None:
        # Keras's first: if a function raises an error, a checkpoint has them after that batch.
        if self._training:
            self._training.after(outcome)
        super().__call__(state)
        if self._training and self._training.is_stopped:
            raise StopTraining

    def finish(self) -> None:
        """Run what is held back, and end the epoch, if `epochs` does not."""
        try:
            super().finish()
        finally:
            if self._training and current_round() is None:
                self._training.end(is_whole=True)

    def leave(self) -> None:
        """Training is left by an error, which counts for more than one that comes of this."""
        if self._training:
            if this := current_round():
                this.trainings.pop(self._key, None)
            with contextlib.suppress(Exception):
                self._training.leave(is_whole=False)


class KerasTraining:
    """A training as Keras's callbacks see it: epochs, each of one call of `train` or of several.

    Args:
        callbacks: Keras's.
        trained: what they take for their model.
        metrics: Keras's metrics that the objective refers to, by the names they have in the logs.
        steps: how many an epoch has, if that is known.
        total: how many epochs there are.
    """

    def __init__(
        self,
        callbacks: list[KerasCallback],
        trained: "Trained",
        metrics: Metrics,
        steps: int | None,
        total: int,
    ) -> None:
        self._callbacks, self._trained, self._metrics = callbacks, trained, metrics
        self._epoch: int | None = None
        self._step, self._values = 0, dict[str, list[np.ndarray]]()
        self._logs: dict[str, Any] | None = None
        params = {"verbose": 1, "epochs": total, "steps": steps}
        for callback in callbacks:
            callback.set_params(params)
            callback.set_model(trained)
        self._call("on_train_begin")

    def begin(self, epoch: int) -> bool:
        """A call of `train` begins in this epoch: whether it has not been trained before."""
        if epoch < (self._trained._initial_epoch or 0):
            announce(f"epoch {epoch + 1} was trained before: it is in the backup")
            return False
        if self._epoch is None:
            self._epoch = epoch
            self._step, self._values = 0, {}
            self._call("on_epoch_begin", epoch)
        return True

    @property
    def is_stopped(self) -> bool:
        """Whether one of them has asked for the end of training."""
        return bool(self._trained.stop_training)

    def state(self) -> dict[str, Any]:
        values = {name: np.concatenate(v) for name, v in self._values.items()}
        return {"step": self._step, "values": values}

    def load_state(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self._values = {name: [numbers] for name, numbers in state["values"].items()}

    def before(self) -> None:
        self._call("on_train_batch_begin", self._step)

    def after(self, outcome: Outcome) -> None:
        """Tell of a batch, or of the last of several."""
        values = _numbers(outcome)
        self._step += len(outcome.losses)
        if outcome.is_made:
            for name, numbers in values.items():
                self._values.setdefault(name, []).append(numbers)
        logs = {name: float(numbers[-1]) for name, numbers in values.items()}
        self._call("on_train_batch_end", self._step - 1, logs)

    def end_epoch(self) -> bool:
        if self._epoch is None:
            return False
        epoch, self._epoch = self._epoch, None
        means = {name: float(np.mean(np.concatenate(v))) for name, v in self._values.items()}
        results = {name: _result(metric) for name, metric in self._metrics.items()}
        self._logs = means | {name: value for name, value in results.items() if value is not None}
        self._call("on_epoch_end", epoch, self._logs)
        return self.is_stopped

    def end(self, is_whole: bool) -> None:
        self.end_epoch()
        self.leave(is_whole)

    def leave(self, is_whole: bool) -> None:
        for callback in self._callbacks:
            # What is left early is what a backup is for, which would be deleted.
            if is_whole or not isinstance(callback, keras.callbacks.BackupAndRestore):
                callback.on_train_end(self._logs)

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in self._callbacks:
            getattr(callback, hook)(*arguments)


class Trained:
    """What Keras's callbacks take for their model: it, with the optimisers that train it.

    Args:
        model: a model, or None; what it has, or is given, is that of the model.
        optimisers: those of `train`.
    """

    def __init__(self, model: Any, optimisers: Sequence[Optimiser]) -> None:
        several = types.SimpleNamespace(
            optimizers=list(optimisers), iterations=optimisers[0].iterations
        )
        vars(self).update(
            _model=model,
            optimizer=optimisers[0] if len(optimisers) == 1 else several,
            stop_training=False,
            history=None,
            _initial_epoch=None,
        )

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self) if self._model is None else type(self._model)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of(name), name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OF_TRAINING:
            vars(self)[name] = value
        else:
            setattr(self._of(name), name, value)

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self._of("call")(*arguments, **options)

    def _of(self, name: str) -> Any:
        if self._model is None:
            raise AttributeError(
                f"a callback wants {name!r} of the model, but the objective refers to no Keras "
                "model, or to several. Give train the one that is meant: train(loss, model, data, "
                "opt)."
            )
        return self._model


def _is_of_keras(callback: Any) -> bool:
    return isinstance(callback, keras.callbacks.Callback)


def _flat(callback: KerasCallback) -> list[KerasCallback]:
    """The callbacks in a `CallbackList`, which would call each of them for every batch."""
    if isinstance(callback, keras.callbacks.CallbackList):
        return [c for each in callback.callbacks for c in _flat(each)]
    return [callback]


def _saves_by_epoch(callback: Any) -> bool:
    return bool(callback.save_freq == "epoch")


def _writes_by_epoch(board: Any) -> bool:
    # Whether it profiles, it does not tell by a public attribute: `profile_batch` is kept in none.
    is_timing = board.write_steps_per_second or getattr(board, "_should_trace", False)
    return board.update_freq == "epoch" and not is_timing


# When the hooks for batches that a class has do nothing. What `TerminateOnNaN` does, the guard of
# each step does by itself.
IDLE: dict[type, Callable[[Any], bool]] = {
    KerasCallback: lambda callback: True,
    keras.callbacks.TerminateOnNaN: lambda callback: True,
    keras.callbacks.ModelCheckpoint: _saves_by_epoch,
    keras.callbacks.BackupAndRestore: _saves_by_epoch,
    keras.callbacks.TensorBoard: _writes_by_epoch,
}
if hasattr(keras.callbacks, "OrbaxCheckpoint"):  # not in older versions
    IDLE[keras.callbacks.OrbaxCheckpoint] = _saves_by_epoch


def _wants_every_batch(callback: KerasCallback) -> bool:
    idle = [kind for kind, test in IDLE.items() if isinstance(callback, kind) and test(callback)]
    # Keras's LambdaCallback has plain functions for its hooks.
    hooks = {name: getattr(getattr(callback, name), "__func__", None) for name in BATCH_HOOKS}
    return any(f not in [getattr(kind, name) for kind in idle] for name, f in hooks.items())


def _model_of(captured: Captures, model: Any) -> Any:
    """The model given to `train`; else the one that the objective refers to, not within another."""
    if isinstance(model, keras.Model):
        return model
    found = [value for value in captured.kept if isinstance(value, keras.Model)]
    within = {id(layer) for outer in found for layer in outer.layers}
    outermost = [m for m in found if id(m) not in within]
    return outermost[0] if len(outermost) == 1 else None


def _numbers(outcome: Outcome) -> dict[str, np.ndarray]:
    """The loss, and those values besides that have a name and are single numbers, of each step."""
    named = outcome.aux if isinstance(outcome.aux, dict) else {}
    values = {str(name): v for name, v in named.items() if isinstance(v, np.ndarray)}
    values["loss"] = outcome.losses
    is_number = {n: v.ndim == 1 and v.dtype.kind not in "OSUc" for n, v in values.items()}
    return {name: v.astype(np.float64) for name, v in values.items() if is_number[name]}


def _result(metric: keras.metrics.Metric) -> float | None:
    result = np.asarray(metric.result())
    return float(result) if result.ndim == 0 else None
