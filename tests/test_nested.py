import collections
import types

import numpy as np
import pytest

from fluxkeras.nested import combined, is_nested_list, map_parts, parts_of

Point = collections.namedtuple("Point", "x y")
X = np.arange(22.0).reshape(11, 2)


def test_parts_are_mapped_in_their_form():
    node = {"a": (1, [None, "b"]), "c": Point([1, 2], {}), "d": [[1], [2, 3]]}

    found = map_parts(lambda part: [part], node)

    assert found == {
        "a": ([1], [[None], ["b"]]),
        "c": Point([[1, 2]], {}),
        "d": [[[1], [2, 3]]],
    }
    assert isinstance(found["a"], tuple) and isinstance(found["c"], Point)


@pytest.mark.parametrize("node", [1, "text", None, X, [1, 2], [], range(3)])
def test_what_has_no_parts_is_one(node):
    assert map_parts(lambda part: part, node) is node


@pytest.mark.parametrize("node", [(), {}, ((), [{}])])
def test_parts_that_are_empty_stay(node):
    assert map_parts(lambda part: 1 / 0, node) == node


@pytest.mark.parametrize("kind", [collections.OrderedDict, types.MappingProxyType])
def test_any_mapping_is_a_dict_of_parts(kind):
    assert map_parts(lambda part: part + 1, kind({"b": 1, "a": 2})) == {"b": 2, "a": 3}


@pytest.mark.parametrize("value", [[], [1, 2.5], [[1], [2, 3]], ["a", b"b"], [True, [[0]]]])
def test_lists_of_numbers_stand_for_arrays(value):
    assert is_nested_list(value)


@pytest.mark.parametrize("value", [3, (1, 2), [1, (2,)], [[1], None], [{}], [range(2)]])
def test_other_lists_do_not(value):
    assert not is_nested_list(value)


def test_parts_are_listed_in_the_order_in_which_they_are_mapped():
    node = {"b": (1, [None, "b"]), "a": Point([1, 2], {}), "c": X}
    mapped = []
    map_parts(mapped.append, node)

    assert parts_of(node) == mapped
    assert parts_of(node)[:4] == [1, None, "b", [1, 2]]


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([1, 2, 3], 6),
        ([(1, 2), (3, 4)], (4, 6)),
        ([[(1,), 2], [(3,), 4]], [(4,), 6]),
        ([{"a": 1, "b": (2, 3)}, {"b": (4, 5), "a": 6}], {"a": 7, "b": (6, 8)}),
        ([Point(1, {"c": 2}), Point(3, {"c": 4})], Point(4, {"c": 6})),
    ],
)
def test_what_is_in_the_same_place_is_combined(nodes, expected):
    found = combined("f", sum, nodes)

    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("nodes", "forms"),
    [
        ([(1, 2), (1,)], "(…, …) and (…,)"),
        ([{"a": 1}, {"b": 1}], "{'a': …} and {'b': …}"),
        ([(1, {"a": X}), (1, X)], "{'a': …} and …"),
    ],
)
def test_nodes_of_several_forms_are_refused(nodes, forms):
    with pytest.raises(ValueError) as raised:
        combined("batch", list, nodes)

    assert str(raised.value) == f"batch expects all to be of one form, got {forms}."
