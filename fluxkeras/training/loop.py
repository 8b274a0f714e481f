"""The loop: train."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, overload

import keras
import numpy as np
import tensorflow as tf

from fluxkeras.checks import NonFiniteError, at_batch, locate, warn
from fluxkeras.parameters import params, raw
from fluxkeras.training.batch import Signature
from fluxkeras.training.cache import Compiled, compiled_for
from fluxkeras.training.callbacks import State, StopTraining
from fluxkeras.training.checkpoint import Call, Checkpoint, Unkept
from fluxkeras.training.company import Company
from fluxkeras.training.forms import Outcome
from fluxkeras.training.history import History, of_step, with_history
from fluxkeras.training.interrupts import Interrupts
from fluxkeras.training.iterables import length
from fluxkeras.training.keras_callbacks import AllCallbacks
from fluxkeras.training.objective import Metrics, loss_and_aux, with_metrics
from fluxkeras.training.progress import Progress, Silent, progress_of
from fluxkeras.training.rounds import announce, current_round
from fluxkeras.training.step import Optimiser
from fluxkeras.training.tuner import FORMS, Request

__all__ = ["train", "trainstep", "trainstep_withgradient"]

ON_NONFINITE = "raise", "stop", "skip"

Callback = Callable[..., Any]


@overload
def train(
    loss: Callable[..., Any],
    data: Iterable[Any],
    opt: Optimiser | list[Optimiser],
    /,
    *,
    cb: Callback | list[Callback] | None = None,
    progress: bool = True,
    form: str = "auto",
    chunk: int | None = None,
    checkpoint: Checkpoint | None = None,
    on_nonfinite: str = "raise",
    metrics: Metrics | None = None,
) -> History: ...
@overload
def train(
    loss: Callable[..., Any],
    model: Any,
    data: Iterable[Any],
    opt: Optimiser | list[Optimiser],
    /,
    *,
    cb: Callback | list[Callback] | None = None,
    progress: bool = True,
    form: str = "auto",
    chunk: int | None = None,
    checkpoint: Checkpoint | None = None,
    on_nonfinite: str = "raise",
    metrics: Metrics | None = None,
) -> History: ...
def train(
    loss: Callable[..., Any],
    *arguments: Any,
    cb: Callback | list[Callback] | None = None,
    progress: bool = True,
    form: str = "auto",
    chunk: int | None = None,
    checkpoint: Checkpoint | None = None,
    on_nonfinite: str = "raise",
    metrics: Metrics | None = None,
) -> History:
    """Train once over the data: `train(loss, data, opt)` or `train(loss, model, data, opt)`.

    `for d in data: opt.update(gradient(loss(*d)))`

    Args:
        loss: the objective: any function that returns a number, or `(number, {"name": value, …})`
            to have more than the loss recorded. It is called with the arguments of a batch, after
            the model, if that is given. Within it, layers are in training mode; a `tf.function`
            that it calls keeps the mode in which that was first called, inside or outside. Keras's
            metrics that it refers to are reset at the beginning.
        model: goes first into `loss`; an optimiser that names no parameters trains those of it
            that `loss` reads. Without a model, it trains all variables that `loss` reads.
        data: any iterable of batches. A tuple is splatted into `loss`, anything else passed whole.
            Arrays, numbers and nested lists become tensors, of floating-point numbers in Keras's
            precision, `keras.config.floatx()`.
        opt: a Keras optimiser, or several: each trains the parameters that it names, and one may
            name none, to train the others.
        cb: a callable, or several, called after every batch with no argument, or, if it takes one,
            with the `State`. It may call `stop()`. One that is throttled lets several steps run
            in one call, and is asked after each of those. Keras's callbacks may be among them:
            `epochs` tells them of epochs; without it, each call of `train` is a training of one.
        progress: whether to show how far training is: by a bar on a terminal, with a picture of the
            losses in a notebook if matplotlib is installed, and by lines elsewhere.
        form: how steps run: "single", one a call; "graph", in a loop of TensorFlow's; "xla", in one
            that XLA compiles; "auto", in the one of them that turns out to be the fastest. What
            cannot be compiled in a form runs singly, and `history.timing.dropped` says why.
        chunk: how many steps a call, in the forms with a loop; None: about 50 ms of them.
        checkpoint: a `Checkpoint`, from which training goes on if it was broken off.
        on_nonfinite: what to do when the loss of a batch, or its gradient, is NaN or infinite:
            "raise" an error before the update; "stop", as `stop()` does, with a warning; or "skip"
            the batch, which `history.skipped` then holds the number of.
        metrics: Keras's metrics by name, such as `{"acc": SparseCategoricalAccuracy()}`. What the
            objective returns under that name, `(loss, {"acc": (y, y_hat)})`, is what the metric is
            updated with; what it has come to is recorded.

    Returns:
        A `History`, with every step's loss.

    Raises:
        NonFiniteError: the loss of a batch, or its gradient, is NaN or infinite. The model is as it
            was before that batch, and the error's `history` holds the steps up to it.
        KeyboardInterrupt, SystemExit: Ctrl-C or SIGTERM, after a whole step. The exception's
            `history` holds the steps.
        CheckpointError: the file of the checkpoint is damaged, or does not fit.
        TypeError, ValueError, ShapeError: something given here, or a batch, does not fit. The
            message names the batch, counted from 0; what is refused has changed nothing.

    Example:
        >>> m = Chain(Dense(784, 32, σ), Dense(32, 10), softmax)
        >>> loss = lambda x, y: mse(m(x), y)
        >>> x, y = np.random.rand(784), np.random.rand(10)
        >>> history = train(loss, [(x, y), (x, y), (x, y)], SGD(params(m), 0.1), progress=False)
        >>> len(history.losses), bool(history.losses[-1] < history.losses[0])
        (3, True)

    Source: Flux's `train!`, of 0.6 and, with a model, of 0.13 and later.
    """
    model, data, opt = split("train", "data", arguments)
    objective = with_metrics(loss, metrics)
    optimisers = listed(opt)
    callbacks = AllCallbacks(cb)
    request = _request(form, chunk, callbacks, length(data))
    on_nonfinite = _on_nonfinite(on_nonfinite, callbacks)
    history = History()
    display: Progress = Silent()
    call: Call | Unkept = Unkept(data)
    try:
        with (
            with_history(history),
            Interrupts() as interrupts,
            _leaving(lambda is_whole: call.leave(is_whole), interrupts, callbacks),
        ):
            compiled = compiled_for(objective, optimisers, model)
            company = Company(compiled.distribution)
            request = company.request(request)
            display = progress_of(loss, request.total, wanted=progress and company.is_chief)
            if not company.is_chief:
                callbacks = AllCallbacks(None)
            if this := current_round():
                this.agree = company.any_stops
            callbacks.attach(compiled.captured, optimisers, model, request.total, metrics)
            if checkpoint:
                call = checkpoint.call(compiled, optimisers, data, history, callbacks)
            history.timing.lap("compiling")
            steps = _Steps(
                compiled, call, callbacks, request, history, interrupts, on_nonfinite, company
            )
            with _stoppable(history), company.departing():
                _run(steps, display, model)
            call.finish()
    finally:
        display.finish()
        history.timing.lap("callbacks")
    return history


def _run(steps: "_Steps", display: Progress, model: Any) -> None:
    """Train to the end, or to where training is stopped, and tell of it."""
    history, callbacks = steps.history, steps.callbacks
    with _stoppable(history):
        steps.begin()
        if len(told := history.losses[: steps.call.told]):
            display.update(told)
        for outcome in steps.outcomes():
            steps.interrupts.release()
            steps.call.untold = None
            if callbacks:
                with display.aside(), _after_batch(len(history) - 1):
                    callbacks(_state(history, outcome, model), outcome)
            display.update(outcome.losses)
            steps.call.save_if_due()
            history.timing.lap("callbacks")
    with display.aside():
        callbacks.finish()
    if history.stopped:
        raise StopTraining


@overload
def trainstep(loss: Callable[..., Any], batch: Any, opt: Optimiser | list[Optimiser], /) -> Any: ...
@overload
def trainstep(
    loss: Callable[..., Any], model: Any, batch: Any, opt: Optimiser | list[Optimiser], /
) -> Any: ...
def trainstep(loss: Callable[..., Any], *arguments: Any) -> Any:
    """One step of training, `trainstep(loss, batch, opt)` or `trainstep(loss, model, batch, opt)`.

    `train(loss, model, [batch], opt)`, which is faster for several batches.

    Args:
        loss: the objective, as in `train`.
        *arguments: as in `train`, with one batch in place of the data.

    Returns:
        What `loss` returned, before the update: the loss, or a tuple `(loss, anything else)`, as
        NumPy's. If the loss is not finite, nothing was changed.

    Raises:
        TypeError, ValueError, ShapeError: as in `train`.

    Example:
        >>> m = Chain(Dense(1, 1, init="ones"))
        >>> loss = lambda m, x, y: mse(m(x), y)
        >>> opt = Descent(0.1)
        >>> [float(trainstep(loss, m, ([[1.0]], [[0.0]]), opt)) for _ in range(2)]
        [1.0, 0.36...]

    Source: Flux's `trainstep!`.
    """
    model, batch, opt = split("train", "data", arguments)
    try:
        history = train(loss, model, [batch], opt, progress=False)
    except NonFiniteError as error:
        return error.loss if error.aux is None else (error.loss, error.aux)
    aux = of_step(history.aux, 0)
    return history.losses[0] if aux is None else (history.losses[0], aux)


@overload
def trainstep_withgradient(
    loss: Callable[..., Any], batch: Any, opt: Optimiser | list[Optimiser], /
) -> tuple[Any, list[Any]]: ...
@overload
def trainstep_withgradient(
    loss: Callable[..., Any], model: Any, batch: Any, opt: Optimiser | list[Optimiser], /
) -> tuple[Any, list[Any]]: ...
def trainstep_withgradient(loss: Callable[..., Any], *arguments: Any) -> tuple[Any, list[Any]]:
    """One step of training, and its gradient: `trainstep`, which also returns what it followed.

    `val, grad = withgradient(loss, model, *batch)`, then `opt.update(grad)`

    Args:
        loss: the objective, as in `train`.
        *arguments: as in `train`, with one batch in place of the data.

    Returns:
        `(val, grad)`: what `trainstep` returns, and the gradients, NumPy's arrays: of each of
        `params(model)`; without a model, of each parameter that the optimiser names, or that `loss`
        reads, in the order in which they were made. None for those that no gradient reaches. If
        the loss, or a gradient, is not finite, nothing was changed.

    Raises:
        TypeError, ValueError, ShapeError: as in `train`.

    Example:
        >>> m = Chain(Dense(1, 1, init="ones"))
        >>> loss = lambda m, x, y: mse(m(x), y)
        >>> val, grad = trainstep_withgradient(loss, m, ([[1.0]], [[0.0]]), Descent(0.1))
        >>> print(val, [g.tolist() for g in grad], m[0].bias.numpy())
        1.0 [[[2.0]], [2.0]] [-0.2]

    Source: Flux's `trainstep_withgradient!`.
    """
    model, batch, opt = split("trainstep_withgradient", "batch", arguments)
    named = [v for optimiser in listed(opt) for v in getattr(optimiser, "params", None) or ()]
    function = getattr(loss, "python_function", loss)

    @functools.wraps(function)
    def with_gradient(*arguments: Any) -> Any:
        with tf.GradientTape() as tape:
            value, aux = loss_and_aux(function(*arguments))
        sources = named if model is None else params(model)
        found = tape.gradient(value, list(map(raw, sources or tape.watched_variables())))
        return value, (aux, [g if g is None else tf.convert_to_tensor(g) for g in found])

    value, (aux, gradients) = trainstep(with_gradient, model, batch, opt)
    return value if aux is None else (value, aux), gradients


@dataclasses.dataclass
class _Steps:
    """The steps of one call of `train`."""

    compiled: Compiled
    call: Call | Unkept
    callbacks: AllCallbacks
    request: Request
    history: History
    interrupts: Interrupts
    on_nonfinite: str
    company: Company
    is_wanted: bool = True

    def begin(self) -> None:
        """Trace the first step, so that all variables are there, and go on where training was."""
        self.compiled.begin()
        self._feed = self.call.feed(self.compiled.distribution)
        signature = self._feed.peek()
        self.history.timing.lap("data")
        if signature is not None:
            with at_batch(0, signature), self.interrupts.held_back():
                self.compiled.runner(signature, self._feed.is_same)
            self.history.timing.lap("compiling")
            if message := self.call.begin(self._feed):
                announce(message)
        self.is_wanted = not self.call.is_passed and self.callbacks.begin()
        self.call.go_on()
        if self.history.stopped:  # in an earlier process
            raise StopTraining

    def outcomes(self) -> Iterator[Outcome]:
        """Train on batch after batch: what came of each, or of several that ran in one call.

        Interrupts are held while an outcome is handed over, which the history has.
        """
        feed, timing, done = self._feed, self.history.timing, len(self.history)
        if not self.is_wanted:
            return
        if self.call.untold:
            yield self.call.untold
        request = self.request.within(feed)
        while not self.call.is_over and (signature := feed.peek()) is not None:
            reading = timing.lap("data")
            with at_batch(done, signature), self.interrupts.held_back():
                runner = self.compiled.runner(signature, feed.is_same)
                plan = runner.plan(request, done)
            timing.lap("compiling")
            most = int(min(plan.steps, self.call.left(done)))
            chunk = feed.take(signature, most, plan.room)
            self.company.go_on(signature, chunk.count, feed.order)
            timing.ran_as(plan.arm.form, plan.steps, runner.tuner.dropped)
            reading += timing.lap("data")
            following = int(min(plan.steps, self.call.left(done + chunk.count)))
            meanwhile = functools.partial(feed.prepare, following, plan.room)
            self.callbacks.before()
            timing.lap("callbacks")
            if plan.arm.leaves_core:
                feed.begin(following, plan.room)
            part = "steps" if runner.is_warm(plan) else "compiling"
            outcomes = runner.run(plan, chunk, meanwhile, reading)
            self.interrupts.hold()
            while (outcome := self._next(outcomes, done, signature)) is not None:
                timing.lap(part)
                self.history.skipped += [done + i for i in outcome.overflows]
                done += len(outcome.losses)
                self.history.extend(outcome.losses, outcome.aux)
                self.call.untold = outcome
                feed.wait()  # callbacks may change what is read
                timing.lap("data")
                yield outcome
                self.interrupts.hold()
            self.interrupts.release()

    def _next(self, outcomes: Iterator[Outcome], done: int, signature: Signature) -> Outcome | None:
        with at_batch(done, signature):
            outcome = next(outcomes, None)
            if outcome is None or outcome.is_made:
                return outcome
            error = _non_finite(outcome)
            if self.on_nonfinite == "raise":
                raise error
        if self.on_nonfinite == "stop":
            warn(f"train stopped at batch {done} ({signature}): {error}")
            self.interrupts.release()
            raise StopTraining
        if not self.history.skipped:
            warn(f"train skips batch {done} ({signature}): {error}")
        self.history.skipped.append(done)
        return outcome


@contextlib.contextmanager
def _after_batch(position: int) -> Iterator[None]:
    """Where errors of callbacks tell the batch that came before."""
    try:
        yield
    except StopTraining:
        raise
    except Exception as error:
        locate(error, f"in a callback after batch {position}")
        raise


@contextlib.contextmanager
def _leaving(
    leave: Callable[[bool], None], interrupts: Interrupts, callbacks: AllCallbacks
) -> Iterator[None]:
    """Where an error comes after a whole step, unless it is an interrupt that did not wait."""
    try:
        yield
    except BaseException as error:
        leave(isinstance(error, Exception) or not interrupts.held)
        callbacks.leave()
        raise


def _non_finite(outcome: Outcome) -> NonFiniteError:
    loss = float(outcome.losses[-1])
    what = ", and its gradient is not finite" if math.isfinite(loss) else ""
    error = NonFiniteError(
        f"the loss is {loss}{what}. That update was not made: the model is as it was before that "
        "batch. Is there a NaN in the batch, or a root or log of 0 or a division by 0 in the "
        "objective? If the losses grew, lower the learning rate."
    )
    error.loss, error.aux = loss, of_step(outcome.aux, -1)
    return error


def _state(history: History, outcome: Outcome, model: Any) -> State:
    return State(len(history) - 1, float(outcome.losses[-1]), of_step(outcome.aux, -1), model)


def _on_nonfinite(choice: str, callbacks: AllCallbacks) -> str:
    _check_choice("on_nonfinite", choice, ON_NONFINITE)
    return "stop" if choice == "raise" and callbacks.end_on_nonfinite else choice


def _request(form: str, chunk: int | None, callbacks: AllCallbacks, total: int | None) -> Request:
    _check_choice("form", form, FORMS)
    if chunk is not None and (not isinstance(chunk, int | np.integer) or chunk < 1):
        raise ValueError(
            f"train expects as chunk how many steps run in a call, a whole number from 1, got "
            f"{chunk!r}."
        )
    return Request(form, chunk, 1 if callbacks.want_every_batch else math.inf, total)


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        words = ", ".join(map(repr, choices))
        raise ValueError(f"train expects a {name} of {words}, got {value!r}.")


@contextlib.contextmanager
def _stoppable(history: History) -> Iterator[None]:
    """Where `stop` ends what is under way, and the `epochs` around it."""
    try:
        yield
    except StopTraining:
        history.stopped = True
        if this := current_round():
            this.stopped = True


def split(caller: str, second: str, arguments: tuple[Any, ...]) -> tuple[Any, Any, Any]:
    """The model, or None, what is trained on, and the optimiser, or several."""
    if len(arguments) not in (2, 3):
        raise TypeError(
            f"{caller} takes (loss, {second}, opt) or (loss, model, {second}, opt), got "
            f"{len(arguments) + 1} arguments."
        )
    model, data, opt = (None, *arguments)[-3:]
    for optimiser in listed(opt):
        if not isinstance(optimiser, keras.optimizers.Optimizer):
            raise TypeError(
                f"{caller} expects an optimiser, such as ADAM(), as its last argument, got "
                f"{type(optimiser).__name__}."
            )
    if not listed(opt):
        raise ValueError(f"{caller} got no optimiser.")
    return model, data, opt


def listed(opt: Any) -> list[Any]:
    return list(opt) if isinstance(opt, list | tuple) else [opt]
