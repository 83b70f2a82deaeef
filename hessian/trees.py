"""Nested containers as a list of leaves, and the same put together around other leaves.

torch's own way knows the containers that users have registered with it, and its name is private.
Where torch has it no more, this opens lists, tuples, named tuples, deques and mappings of the
standard library, and what was registered here. As in torch, `None` is a leaf, and a subclass of a
container is one, too.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hessian import torch_private

# A container's contents, and what else it takes to make it again.
Open = Callable[[Any], tuple[list[Any], Any]]
Close = Callable[[list[Any], Any], Any]


@dataclass(frozen=True)
class Structure:
    """How leaves are put together; without a `kind`, a leaf."""

    kind: type | None = None
    context: Any = None
    inside: tuple[Structure, ...] = ()
    close: Close | None = field(default=None, compare=False, repr=False)

    @property
    def num_leaves(self) -> int:
        """The number of leaves."""
        return 1 if self.kind is None else sum(one.num_leaves for one in self.inside)


LEAF = Structure()


def _mapping(value: Any) -> tuple[list[Any], Any]:
    return list(value.values()), list(value)


def _pairs(values: list[Any], keys: list[Any]) -> Iterable[tuple[Any, Any]]:
    return zip(keys, values, strict=True)


_KINDS: dict[type, tuple[Open, Close]] = {
    list: (lambda value: (list(value), None), lambda values, _: list(values)),
    tuple: (lambda value: (list(value), None), lambda values, _: tuple(values)),
    dict: (_mapping, lambda values, keys: dict(_pairs(values, keys))),
    OrderedDict: (_mapping, lambda values, keys: OrderedDict(_pairs(values, keys))),
    defaultdict: (
        lambda value: (list(value.values()), (value.default_factory, list(value))),
        lambda values, rest: defaultdict(rest[0], _pairs(values, rest[1])),
    ),
    deque: (
        lambda value: (list(value), value.maxlen),
        lambda values, longest: deque(values, maxlen=longest),
    ),
}


def _ways(value: Any) -> tuple[Open, Close] | None:
    kind: Any = type(value)
    if kind in _KINDS:
        return _KINDS[kind]
    if isinstance(value, tuple) and hasattr(kind, "_make"):  # a named tuple
        return _KINDS[list][0], lambda values, _: kind._make(values)
    if isinstance(value, tuple) and kind.__module__ == "torch.return_types":
        return _KINDS[list][0], lambda values, _: kind(values)
    return None


def _open(tree: Any, path: tuple[Any, ...], into: list[tuple[tuple[Any, ...], Any]]) -> Structure:
    ways = _ways(tree)
    if ways is None:
        into.append((path, tree))
        return LEAF
    values, context = ways[0](tree)
    names = tree if isinstance(tree, dict) else getattr(tree, "_fields", range(len(values)))
    inside = [_open(v, (*path, name), into) for name, v in zip(names, values, strict=True)]
    return Structure(type(tree), context, tuple(inside), ways[1])


def _close(leaves: Iterator[Any], structure: Structure) -> Any:
    if structure.close is None:
        return next(leaves)
    return structure.close([_close(leaves, one) for one in structure.inside], structure.context)


def _step(key: Any) -> Any:
    """A step of torch's paths: the key of a mapping, a place in a list, an attribute."""
    for attribute in ("key", "idx", "name"):
        if hasattr(key, attribute):
            return getattr(key, attribute)
    return key


def flatten(tree: Any) -> tuple[list[Any], Any]:
    """The leaves of a tree, and how they are put together.

    >>> flatten({"a": 1, "b": [2, None]})[0]
    [1, 2, None]
    """
    if torch_private.PYTREE is not None:
        return torch_private.PYTREE.tree_flatten(tree)  # type: ignore[no-any-return]
    pairs: list[tuple[tuple[Any, ...], Any]] = []
    structure = _open(tree, (), pairs)
    return [leaf for _, leaf in pairs], structure


def flatten_with_path(tree: Any) -> tuple[list[tuple[tuple[Any, ...], Any]], Any]:
    """As `flatten`; with each leaf the keys and places that lead to it.

    >>> flatten_with_path({"a": 1, "b": [2, None]})[0]
    [(('a',), 1), (('b', 0), 2), (('b', 1), None)]
    """
    if torch_private.PYTREE is not None:
        pairs, structure = torch_private.PYTREE.tree_flatten_with_path(tree)
        return [(tuple(map(_step, path)), leaf) for path, leaf in pairs], structure
    pairs = []
    structure = _open(tree, (), pairs)
    return pairs, structure


def unflatten(leaves: Iterable[Any], structure: Any) -> Any:
    """A tree of other leaves.

    >>> unflatten([3, 4], flatten((1, [2]))[1])
    (3, [4])
    """
    if not isinstance(structure, Structure):
        return torch_private.PYTREE.tree_unflatten(list(leaves), structure)
    leaves = list(leaves)
    if len(leaves) != structure.num_leaves:
        raise ValueError(f"leaves: got {len(leaves)}; the structure has {structure.num_leaves}")
    return _close(iter(leaves), structure)


def leaves(tree: Any) -> list[Any]:
    """The leaves of a tree.

    >>> leaves([1, (2, 3)])
    [1, 2, 3]
    """
    return flatten(tree)[0]


def mapped(function: Callable[[Any], Any], tree: Any, *others: Any) -> Any:
    """A tree with a function's value in the place of each leaf; of several trees, of each place.

    >>> mapped(lambda a, b: a * b, [1, (2,)], [10, (20,)])
    [10, (40,)]

    Raises:
        ValueError: the trees are not put together in the same way.
    """
    first, structure = flatten(tree)
    every = [first]
    for other in others:
        more, its = flatten(other)
        if its != structure:
            raise ValueError(f"others: got {its}; give trees like the first, {structure}")
        every.append(more)
    return unflatten(map(function, *every), structure)


def register(kind: type, open: Open, close: Close) -> None:
    """Let objects of a class be opened: into contents and a rest, from which they are made again.

    >>> class Pair(list): ...
    >>> register(Pair, lambda pair: (list(pair), None), lambda values, _: Pair(values))
    >>> leaves([Pair([1, 2]), 3])
    [1, 2, 3]
    """
    _KINDS[kind] = open, close
    if torch_private.PYTREE is not None:
        torch_private.PYTREE.register_pytree_node(kind, open, close)
