"""Nested data: tuples, lists and dicts, and the parts in them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np


def is_nested_list(value: Any) -> bool:
    """Whether a list stands for an array: it holds numbers, texts, or such lists."""
    atoms = Number | str | bytes
    return isinstance(value, list) and all(isinstance(v, atoms) or is_nested_list(v) for v in value)


def has_parts(node: Any) -> bool:
    """Whether it is a dict, a tuple, or a list that does not stand for an array."""
    return isinstance(node, Mapping | tuple | list) and not is_nested_list(node)


def map_parts(f: Callable[[Any], Any], node: Any) -> Any:
    """`f` of every part of tuples, lists and dicts, in the same form."""
    if isinstance(node, np.ndarray):
        return f(node)
    if isinstance(node, Mapping):
        return {name: map_parts(f, part) for name, part in node.items()}
    if has_parts(node):
        return _like(node, [map_parts(f, part) for part in node])
    return f(node)


def combined(name: str, f: Callable[[list[Any]], Any], nodes: Sequence[Any]) -> Any:
    """`f` of the parts that are in the same place of several nodes, in the form that all have."""
    first = nodes[0]
    if not has_parts(first):
        return f(list(nodes))
    keys = list(_keys(first))
    for node in nodes:
        if not has_parts(node) or set(_keys(node)) != set(keys):
            raise ValueError(
                f"{name} expects all to be of one form, got {_form(first)} and {_form(node)}."
            )
    parts = [combined(name, f, [node[key] for node in nodes]) for key in keys]
    if isinstance(first, Mapping):
        return dict(zip(keys, parts, strict=True))
    return _like(first, parts)


def parts_of(node: Any) -> list[Any]:
    """The parts, in the order in which `map_parts` finds them."""
    parts: list[Any] = []
    map_parts(parts.append, node)
    return parts


def _like(node: Any, parts: list[Any]) -> Any:
    return type(node)(*parts) if hasattr(node, "_fields") else type(node)(parts)


def _keys(node: Any) -> Iterable[Any]:
    return node.keys() if isinstance(node, Mapping) else range(len(node))


def _form(node: Any) -> str:
    form = map_parts(lambda part: ..., node)
    return repr(form).replace("Ellipsis", "…")
