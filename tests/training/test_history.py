import numpy as np
import pytest

from fluxkeras import History


def filled(*auxes):
    history = History()
    for i, aux in enumerate(auxes):
        history.append(np.float32(1 / (i + 1)), aux)
    return history


def test_losses_are_an_array_of_every_step():
    history = filled(None, None, None)

    assert isinstance(history.losses, np.ndarray)
    assert history.losses.dtype == np.float32
    np.testing.assert_allclose(history.losses, [1, 1 / 2, 1 / 3])
    np.testing.assert_array_equal(history["loss"], history.losses)
    assert len(history) == 3
    assert history.aux is None


def test_other_values_are_stacked_in_their_structure():
    history = filled({"a": 1, "b": (np.zeros(2), 5)}, {"a": 2, "b": (np.ones(2), 6)})

    np.testing.assert_array_equal(history["a"], [1, 2])
    np.testing.assert_array_equal(history.aux["b"][0], [[0, 0], [1, 1]])
    np.testing.assert_array_equal(history["b"][1], [5, 6])


def test_other_values_of_different_shapes_are_a_list():
    history = filled(np.zeros(2), np.zeros(3))

    assert [v.shape for v in history.aux] == [(2,), (3,)]


def test_other_values_whose_structure_changes_are_a_list_of_every_steps():
    assert filled({"a": 1}, {"b": 2}).aux == [{"a": 1}, {"b": 2}]


def test_a_name_that_was_not_returned_is_refused():
    with pytest.raises(KeyError, match="no 'acc' in the history"):
        filled(None)["acc"]
    with pytest.raises(KeyError, match="no 'acc' in the history"):
        filled({"b": 1})["acc"]


def test_an_empty_history_is_true_and_prints():
    assert History()
    assert History().losses.shape == (0,)
    assert repr(History()) == "History(no steps)"


def test_a_history_prints_its_first_and_last_loss():
    history = filled(None, None)
    assert repr(history) == "History(2 steps, loss 1 to 0.5)"
    assert repr(filled(None)) == "History(1 step, loss 1 to 1)"
    history.stopped = True
    assert repr(history) == "History(2 steps, loss 1 to 0.5, stopped)"
