"""The prefix tree of token sequences: what a causal model has to compute once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """A stretch of tokens without a branch. ``depth`` is the position of its first token in every sequence that runs
    through it, ``parent`` the number of the node before it (-1: none)."""

    tokens: Tokens
    depth: int
    parent: int


@dataclass(frozen=True)
class Trie:
    """Nodes in depth-first order (a parent before its children), and the node in which each sequence ends. A
    sequence may end inside of its node: another one that it begins goes on."""

    nodes: tuple[Node, ...]
    ends: dict[Tokens, int]

    @property
    def tokens(self) -> int:
        """Number of unique prefixes: no plan can run fewer tokens."""
        return sum(len(n.tokens) for n in self.nodes)

    def path(self, node: int) -> list[int]:
        """The nodes from the root to ``node``."""
        found = []
        while node >= 0:
            found.append(node)
            node = self.nodes[node].parent
        return found[::-1]


def build_trie(sequences: Sequence[Tokens]) -> Trie:
    """The trie of token sequences. In sorted order neighbours share the longest prefixes, so the branches are found
    by comparing neighbours."""
    owners = chains(sequences)
    leaves = sorted(set(owners))
    shared = [0, *(_common(a, b) for a, b in pairwise(leaves)), 0]
    nodes: list[Node] = []
    ends: dict[Tokens, int] = {}
    open_nodes: list[int] = []  # the path of the leaf before, as node numbers; cut where it branches
    cuts = _cuts(leaves, shared)
    for i, leaf in enumerate(leaves):
        while open_nodes and _stop(nodes[open_nodes[-1]]) > shared[i]:
            open_nodes.pop()
        begin = _stop(nodes[open_nodes[-1]]) if open_nodes else 0
        for stop in (*(c for c in cuts[i] if c > begin), len(leaf)):
            nodes.append(Node(leaf[begin:stop], begin, open_nodes[-1] if open_nodes else -1))
            open_nodes.append(len(nodes) - 1)
            begin = stop
        ends[leaf] = open_nodes[-1]
    for sequence, owner in zip(sequences, owners, strict=True):
        node = ends[owner]
        while nodes[node].depth >= len(sequence):
            node = nodes[node].parent
        ends[sequence] = node
    return Trie(tuple(nodes), ends)


def chains(sequences: Sequence[Tokens]) -> list[Tokens]:
    """For each sequence the longest given sequence that begins with it (itself where there is none longer)."""
    order = sorted(set(sequences), reverse=True)  # in reverse order an extension comes right before its prefixes
    owner: dict[Tokens, Tokens] = {}
    current: Tokens = ()
    for sequence in order:
        if current[: len(sequence)] != sequence:
            current = sequence
        owner[sequence] = current
    return [owner[s] for s in sequences]


def _cuts(leaves: list[Tokens], shared: list[int]) -> list[list[int]]:
    """Where each leaf has to be cut because a later leaf branches off: the depths that it shares with later ones, as
    long as no leaf in between shares less."""
    found: list[list[int]] = [[] for _ in leaves]
    later: list[int] = []  # increasing depths
    for i in range(len(leaves) - 1, -1, -1):
        depth = shared[i + 1]
        while later and later[-1] > depth:
            later.pop()
        if depth and (not later or later[-1] < depth):
            later.append(depth)
        found[i] = list(later)
    return found


def _stop(node: Node) -> int:
    return node.depth + len(node.tokens)


def _common(a: Tokens, b: Tokens) -> int:
    """Length of the common prefix, by bisection (slices compare at the speed of memory)."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
