"""Hyper-parameters of update rules: numbers that a compiled step reads anew each time."""

import math
import numbers
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

__all__: list[str] = []

# The largest rates below one. bfloat16 rounds 0.999 to 1, with which a running mean stays zero.
BELOW_ONE = {"float16": 1 - 2.0**-11, "bfloat16": 1 - 2.0**-8}


class Number:
    """A hyper-parameter, as an attribute of a rule.

    It reads as a Python number, or as a pair of them. It is kept in a variable of the rule's, so
    that what is assigned to it holds from the next step on, with nothing compiled anew, and in
    float64, so that `1 - 0.999` is exact.

    Args:
        what: what it is, for messages.
        most: the largest value; the least is 0.
        pair: whether it is two numbers.
    """

    def __init__(self, what: str, *, most: float = math.inf, pair: bool = False) -> None:
        self.what = what
        self.most = most
        self.pair = pair

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        # Names of TensorFlow's are in ASCII.
        self.stored = "_lambda" if name == "λ" else f"_{name}"

    def __get__(self, rule: Any, owner: type) -> Any:
        if rule is None:
            return self
        with tf.init_scope():
            value = ops.convert_to_numpy(getattr(rule, self.stored))
        return tuple(value.tolist()) if self.pair else float(value)

    def __set__(self, rule: Any, value: Any) -> None:
        array = self.checked(rule, value)
        if hasattr(rule, self.stored):
            getattr(rule, self.stored).assign(array)
        else:
            variable = keras.Variable(
                array, dtype="float64", trainable=False, name=self.stored.strip("_")
            )
            setattr(rule, self.stored, variable)

    def checked(self, rule: Any, value: Any) -> np.ndarray:
        """The value as an array.

        Raises:
            TypeError: it is no number, or no pair of them.
            ValueError: a number is out of range.
        """
        is_pair = isinstance(value, list | tuple) and len(value) == 2
        parts = list(value) if self.pair and is_pair else [value]
        limits = f"from 0 to {self.most:g}" if self.most < math.inf else "of 0 or more"
        expected = f"a pair of numbers {limits}" if self.pair else f"a number {limits}"
        message = (
            f"{type(rule).__name__} expects {expected} as {self.name}, got {value!r}. "
            f"It is {self.what}."
        )
        if is_pair is not self.pair or not all(isinstance(p, numbers.Real) for p in parts):
            raise TypeError(message)
        if not all(0 <= float(p) <= self.most for p in parts):
            raise ValueError(message)
        return np.asarray(value, "float64")

    def at(self, rule: Any, dtype: str, step: Any) -> Any:
        """What a rule computes with at a step, counted from 1, on variables of a dtype."""
        value = ops.convert_to_tensor(getattr(rule, self.stored))
        if self.pair:
            return [self.of(part, dtype, step) for part in tf.unstack(value)]
        return self.of(value, dtype, step)

    def of(self, value: Any, dtype: str, step: Any) -> Any:
        return ops.cast(value, dtype)


class Rate(Number):
    """The rate of a running mean, or a pair: how much of it stays at each step."""

    def __init__(self, what: str, *, pair: bool = False) -> None:
        super().__init__(what, most=1.0, pair=pair)

    def of(self, value: Any, dtype: str, step: Any) -> "Mean":
        return Mean(ops.minimum(value, BELOW_ONE.get(dtype, 1.0)), dtype, step)


class Mean:
    """A running mean that starts at 0, at one step.

    Attributes:
        rate: how much of it stays.
        rest: `1 - rate`.
        seen: how much of it is of what it has seen, not of the 0: `1 - rate**step`.
        exact: `rate` and `rate**step` in float64.
    """

    def __init__(self, rate: Any, dtype: str, step: Any) -> None:
        self.exact = rate, ops.power(rate, step)
        self.rate = ops.cast(rate, dtype)
        self.rest = ops.cast(1 - rate, dtype)
        self.seen = ops.cast(1 - self.exact[1], dtype)

    def update(self, mean: Any, value: Any) -> Any:
        return mean + self.rest * (value - mean)


class Epsilon(Number):
    """What keeps a division finite. A mean square in float16 may have lost all that is below
    2**-24, so that with Flux's 1e-7 a gradient of 1e-3 makes steps of a hundred times the learning
    rate.

    Args:
        least: the least that it is in float16, unless it is 0.
    """

    def __init__(self, least: float = 2.0**-12) -> None:
        super().__init__("what keeps a division finite, such as 1e-8")
        self.least = least

    def of(self, value: Any, dtype: str, step: Any) -> Any:
        if dtype == "float16":
            value = ops.where(value > 0, ops.maximum(value, self.least), value)
        return ops.cast(value, dtype)


def hyper_parameters(rule: type) -> dict[str, Number]:
    """Those of a class of rules, by name."""
    return {
        name: value
        for base in reversed(rule.__mro__)
        for name, value in vars(base).items()
        if isinstance(value, Number)
    }
