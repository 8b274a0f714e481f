import re

import keras
import numpy as np
import pytest

from fluxkeras import Conv, ConvTranspose, MaxPool, SamePad


@pytest.mark.parametrize(
    ("size", "dilation", "step", "expected"),
    [
        # flux_api.md: a total of d * (k - s), split (cld, fld)
        ((3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
        ((2, 4), (1, 1), (1, 1), (1, 0, 2, 1)),
        ((2, 3), (3, 2), (1, 1), (2, 1, 2, 2)),
        ((5,), (1,), (2,), (2, 1)),
        ((1,), (1,), (2,), (0, -1)),
        ((1,), (1,), (3,), (-1, -1)),
    ],
)
def test_same_pad_splits_its_total_with_the_larger_half_first(size, dilation, step, expected):
    assert SamePad().of(size, dilation, step) == expected


def test_same_pad_prints():
    assert repr(SamePad()) == "SamePad()"


@pytest.mark.parametrize(
    ("pad", "expected"),
    [
        (1, (1, 1, 1, 1)),
        ((1, 2), (1, 1, 2, 2)),
        ([1, 2, 3, 4], (1, 2, 3, 4)),
        (np.int64(2), (2, 2, 2, 2)),
        ((-1, 0), (-1, -1, 0, 0)),
    ],
)
@pytest.mark.parametrize(
    "kind", [lambda pad: Conv((3, 3), 1, 1, pad=pad), lambda pad: MaxPool((3, 3), pad=pad)]
)
def test_pad_is_a_number_one_for_each_axis_or_two(kind, pad, expected):
    assert kind(pad).pad == expected


@pytest.mark.parametrize("pad", [True, 1.0, (1, 2, 3), (1.0, 2), "same", None])
def test_other_pads_are_refused(pad):
    message = "MaxPool expects pad to be a whole number, 2 of them, or 4"

    with pytest.raises(ValueError, match=re.escape(message)):
        MaxPool((3, 3), pad=pad)


@pytest.mark.parametrize("layer", [Conv((3,), 2, 4), MaxPool((2,)), ConvTranspose((3,), 2, 4)])
def test_symbolic_inputs_are_checked_as_arrays_are(layer):
    with pytest.raises(ValueError, match=r"expects inputs of shape \(batch, length, "):
        layer(keras.Input((5, 5, 2)))


def test_one_window_in_an_image_of_its_size_is_enough():
    assert MaxPool((3, 3))(np.ones((1, 3, 3, 1))).shape == (1, 1, 1, 1)
    assert Conv((3, 3), 1, 1, pad=1)(np.ones((1, 1, 1, 1))).shape == (1, 1, 1, 1)
