"""The errors that fluxkeras raises, and the few helpers that word them."""

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

__all__ = ["CheckpointError", "NonFiniteError", "ShapeError"]


class ShapeError(ValueError):
    """A tensor has another shape than its reader expects.

    Example:
        >>> mse([1.0, 2.0], [1.0, 2.0, 3.0])
        Traceback (most recent call last):
        fluxkeras.checks.ShapeError: mse expects ...

    Source: Julia's `DimensionMismatch`.
    """


class NonFiniteError(FloatingPointError, ValueError):
    """A loss is NaN or infinite. It was raised before the update that would have spread it.

    Attributes:
        loss: what it is.
        aux: what the objective returned besides, or None.

    Example:
        >>> x = param(0.0)
        >>> try:
        ...     history = train(lambda d: d / x, [1.0], SGD(0.1), progress=False)
        ... except NonFiniteError as error:
        ...     print(error.loss)
        inf

    Source: the `DomainError` of Flux's `train!`.
    """

    loss: float
    aux: Any = None


class CheckpointError(ValueError):
    """A file cannot be read, or does not fit what is to go on from it. Nothing was changed.

    Example:
        >>> save(folder / "m.ckpt", Dense(2, 1))
        >>> load(folder / "m.ckpt", Dense(3, 1))
        Traceback (most recent call last):
        fluxkeras.checks.CheckpointError: ...
    """


# How Keras and AutoGraph begin the message of the copy that they raise of an error of the user's.
DRESSINGS = ("Exception encountered when calling", "in user code:")


def undressed(error: Exception) -> Exception:
    """The error as it was first raised, with the traceback of that place."""
    while str(error).startswith(DRESSINGS) and isinstance(error.__context__, Exception):
        error = error.__context__
    return error


def locate(error: Exception, where: str) -> None:
    """Put the place at which an error came up into its message; its type and traceback stay."""
    is_plain = len(error.args) == 1 and type(error).__str__ is BaseException.__str__
    if is_plain:
        error.args = (f"{where}: {error.args[0]}",)
    elif hasattr(error, "add_note"):  # from Python 3.11
        error.add_note(where)


@contextlib.contextmanager
def at_batch(position: int, signature: Any) -> Iterator[None]:
    """Where errors tell the batch."""
    try:
        yield
    except Exception as error:
        locate(error, f"batch {position} ({signature})")
        raise


def outside(indices: Any, n: int | None) -> Any:
    """The first of some indices that is not from 0 to below `n`, or None.

    Inside a function that is compiled indices have no values yet: None.
    """
    if not hasattr(indices, "numpy"):
        return None
    values = np.ravel(indices)
    beyond = values[(values < 0) | (False if n is None else values >= n)]
    return beyond[0] if beyond.size else None


def warn(message: str) -> None:
    """Warn of the line of the user's that called fluxkeras."""
    frame, depth = inspect.currentframe(), 0
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] == "fluxkeras":
        frame, depth = frame.f_back, depth + 1
    warnings.warn(message, stacklevel=depth + 1)
