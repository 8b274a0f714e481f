import itertools

import pytest

from fluxkeras import repeated
from fluxkeras.data import is_nested_list


def test_repeated_gives_the_same_object_n_times():
    batch = ([1], [2])

    assert [item is batch for item in repeated(batch, 3)] == [True] * 3
    assert len(repeated(batch, 3)) == 3


def test_repeated_can_be_gone_through_again():
    data = repeated("x", 2)

    assert list(data) == list(data) == ["x", "x"]


def test_repeated_without_a_number_has_no_end_and_no_length():
    data = repeated("x")

    assert list(itertools.islice(data, 1000)) == ["x"] * 1000
    with pytest.raises(TypeError, match="has no length"):
        len(data)


def test_repeated_zero_times_is_empty():
    assert list(repeated("x", 0)) == []


def test_repeated_a_negative_number_of_times_is_refused():
    with pytest.raises(ValueError, match=r"repeated expects a number of times from 0, got -1\."):
        repeated("x", -1)


@pytest.mark.parametrize("data", [repeated((1, 2), 3), repeated("x")])
def test_the_repr_of_repeated_makes_it_again(data):
    again = eval(repr(data))

    assert (again.batch, again.n) == (data.batch, data.n)


@pytest.mark.parametrize("value", [[], [1, 2.5], [[1], [2, 3]], ["a", b"b"], [True, [[0]]]])
def test_lists_of_numbers_stand_for_arrays(value):
    assert is_nested_list(value)


@pytest.mark.parametrize("value", [3, (1, 2), [1, (2,)], [[1], None], [{}], [range(2)]])
def test_other_lists_do_not(value):
    assert not is_nested_list(value)
