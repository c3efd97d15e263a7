"""LeetCode's linked lists and binary trees: the classes that its programs find defined, and lists of their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ListNode:
    """A node of a linked list."""

    def __init__(self, val: Any = 0, next: Any = None) -> None:
        """`next`: a node, or None."""
        self.val = val
        self.next = next


class TreeNode:
    """A node of a binary tree."""

    def __init__(self, val: Any = 0, left: Any = None, right: Any = None) -> None:
        """`left` and `right`: nodes, or None."""
        self.val = val
        self.left = left
        self.right = right


_MOST = 1 << 18
"""Nodes; one that leads back to itself has no end."""

CLASSES: Mapping[str, type] = {"ListNode": ListNode, "TreeNode": TreeNode}


def list_node(values: Sequence[Any], node: Any = ListNode) -> Any:
    """The first node of a linked list, each made by `node(value)`; None of no values."""
    first = None
    for value in reversed(values):
        made = node(value)
        made.next = first
        first = made
    return first


def tree_node(values: Sequence[Any], node: Any = TreeNode) -> Any:
    """The root of a tree from its values row by row, None where there is no node; None of no values."""
    nodes = [None if value is None else node(value) for value in values]
    below = iter(nodes[1:])
    for parent in nodes:
        if parent is not None:
            parent.left = next(below, None)
            parent.right = next(below, None)
    return nodes[0] if nodes else None


def is_list_node(value: Any) -> bool:
    """Whether it is a node of a linked list, of any class."""
    return hasattr(value, "val") and hasattr(value, "next")


def is_tree_node(value: Any) -> bool:
    """Whether it is a node of a binary tree, of any class."""
    return hasattr(value, "val") and hasattr(value, "left") and hasattr(value, "right")


def list_values(node: Any) -> list[Any]:
    """What `list_node` makes the list from; ValueError for a list that has no end, or hardly one."""
    values = []
    while node is not None:
        values.append(node.val)
        _bound(values)
        node = node.next
    return values


def tree_values(root: Any) -> list[Any]:
    """What `tree_node` makes the tree from, without None at the end; ValueError as for lists."""
    nodes = [root]
    for node in nodes:  # grows meanwhile
        if node is not None:
            nodes += [node.left, node.right]
            _bound(nodes)
    while nodes and nodes[-1] is None:
        nodes.pop()
    return [None if node is None else node.val for node in nodes]


def _bound(values: Sequence[Any]) -> None:
    if len(values) > _MOST:
        raise ValueError("nodes without end")
