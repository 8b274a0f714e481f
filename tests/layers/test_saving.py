import operator
import re

import keras
import pytest
import tensorflow as tf

from fluxkeras import Dense, relu, softmax
from fluxkeras.layers.saving import loaded, saved

WHOLE = keras.layers.Layer(name="net")


@keras.saving.register_keras_serializable(package="tests of saving")
class Offset:
    def __init__(self, by):
        self.by = by

    def __call__(self, x):
        return x + self.by

    def get_config(self):
        return {"by": self.by}


class Unregistered(Offset):
    pass


@pytest.mark.parametrize(
    "function",
    [
        relu,
        softmax,
        keras.activations.relu,
        keras.ops.concatenate,
        tf.concat,
        tf.nn.softplus,
        tf.math.add,
        operator.add,
    ],
)
def test_functions_are_found_again(function):
    assert loaded(saved(function, "a layer 1", WHOLE)) is function


def test_layers_and_objects_are_made_again():
    assert repr(loaded(saved(Dense(2, 3), "a layer 1", WHOLE))) == "Dense(2, 3)"
    assert loaded(saved(Offset(3), "a layer 1", WHOLE)).by == 3


def test_an_object_is_registered():
    message = "Saving net expects a layer 1 that can be made again, got Unregistered(). Give"

    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        saved(Unregistered(3), "a layer 1", WHOLE)


def test_what_is_gone_is_named():
    message = "Loading expects 'mine>Gone' to be registered. Import the module that has it first."

    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loaded({"object": "mine>Gone", "config": {}})
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        loaded({"function": "mine>Gone"})


def test_a_function_is_told_with_its_place():
    with pytest.raises(ValueError, match=r"got <lambda> \(.*test_saving\.py, line \d+\)\. Write"):
        saved(lambda x: x, "a layer 1", WHOLE)
