"""Which forward passes are needed: pure arithmetic on token sequences.

In a causal model a state does not depend on what follows. So a sequence that another one begins with is not run: its
readouts are positions of the longer one, and all turns of a conversation cost one pass. Sequences that share a
beginning and then differ form a tree; where that pays, the whole tree becomes one *packed* row, in which every prefix
stands once, at the position that it has in its sequences, and attends to its own ancestors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmct_bench.scanner.render import Readout
from llmct_bench.scanner.trie import Tokens, Trie, build_trie

#: Tokens per pass, padding included: large enough for the matrix products, small enough to pad little.
TOKEN_BUDGET = 512


@dataclass(frozen=True)
class Read:
    """Where readout ``index`` (suite order) is found in a batch, as places in the flattened (rows x width) tokens:
    ``pieces`` [start, stop) hold its content in order, ``last`` is its last token."""

    index: int
    pieces: tuple[tuple[int, int], ...]
    last: int


@dataclass(frozen=True)
class Segment:
    """A stretch [start, stop) of a packed row, the depth of its first token, and the stretches of its ancestors from
    the root on: all that its tokens may attend to beside themselves."""

    start: int
    stop: int
    depth: int
    past: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Batch:
    """One pass. Either sequences side by side, right-padded, or (where ``segments`` are given) one packed row."""

    rows: tuple[Tokens, ...]
    reads: tuple[Read, ...]
    segments: tuple[Segment, ...] = ()

    @property
    def width(self) -> int:
        """Length of the longest row."""
        return max(map(len, self.rows))


@dataclass(frozen=True)
class Plan:
    """All passes of a scan, and what they are measured against: ``minimum`` unique prefixes (no plan can run fewer
    tokens) and ``separate``, the tokens of one pass a readout."""

    batches: tuple[Batch, ...]
    minimum: int
    separate: int

    @property
    def tokens(self) -> int:
        """Tokens run, without padding."""
        return sum(len(r) for b in self.batches for r in b.rows)

    @property
    def padded(self) -> int:
        """Tokens run, padding included."""
        return sum(b.width * len(b.rows) for b in self.batches)


@dataclass(frozen=True)
class Packing:
    """When a tree is packed: it holds no sequence longer than ``longest`` tokens and saves at least ``worth`` tokens
    for each of its segments, which cost an attention call of their own in every block. A packed row, in which nothing
    is padding, has up to ``budget`` tokens; another tree joins it up to ``row`` tokens only (0: ``budget``)."""

    longest: int
    worth: float
    budget: int
    row: int = 0

    def limit(self, again: int) -> int:
        """Tokens at which a row ends, when the next one has to run ``again`` tokens once more: small rows are faster,
        but not where they cost more than a thirty-second."""
        return min(self.row, self.budget) if self.row and 32 * again <= self.row else self.budget


def make_plan(readouts: Sequence[Readout], budget: int = TOKEN_BUDGET, packing: Packing | None = None) -> Plan:
    """Plan the passes for readouts, at most ``budget`` tokens each (a longer sequence runs alone). Deterministic.
    Without ``packing`` every sequence that no other one begins with is a row of its own."""
    trie = build_trie([r.tokens for r in readouts])
    members: dict[Tokens, list[int]] = {}
    for i, readout in enumerate(readouts):
        members.setdefault(readout.tokens, []).append(i)
    plain, packed = _split(trie, packing)
    below = _below([*plain, *packed], trie)  # once: a sequence that both begin with is read in one place
    batches = _padded(plain, budget, trie, below, members, readouts)
    if packing is not None:
        batches += _packed(packed, packing, trie, below, members, readouts)
    return Plan(tuple(batches), trie.tokens, sum(len(r.tokens) for r in readouts))


def separate_plan(readouts: Sequence[Readout], budget: int = TOKEN_BUDGET) -> Plan:
    """One row a readout, whatever readouts share: for passes in which the same tokens are not treated alike."""
    order = sorted(range(len(readouts)), key=lambda i: len(readouts[i].tokens))
    groups: list[list[int]] = []
    for i in order:  # ascending: the new row is the widest
        if not groups or len(readouts[i].tokens) * (len(groups[-1]) + 1) > budget:
            groups.append([])
        groups[-1].append(i)
    batches = []
    for group in groups:
        rows = tuple(readouts[i].tokens for i in group)
        width = len(rows[-1])
        reads = (_read(i, readouts[i], [(0, r * width, len(rows[r]))]) for r, i in enumerate(group))
        batches.append(Batch(rows, tuple(reads)))
    tokens = [r.tokens for r in readouts]
    return Plan(tuple(batches), build_trie(tokens).tokens, sum(map(len, tokens)))


def renumbered(plan: Plan, numbers: Sequence[int]) -> Plan:
    """The plan of some readouts with their ``numbers`` in the whole."""
    batches = (replace(b, reads=tuple(replace(r, index=numbers[r.index]) for r in b.reads)) for b in plan.batches)
    return replace(plan, batches=tuple(batches))


def _split(trie: Trie, packing: Packing | None) -> tuple[list[int], list[int]]:
    """Leaves to be run as rows of their own, and leaves of subtrees that are worth packing, in depth-first order. A
    template's beginning stands in every sequence, so where the whole is not worth it, its branches may be."""
    n = len(trie.nodes)
    children: list[list[int]] = [[] for _ in range(n)]
    for i, node in enumerate(trie.nodes):
        if node.parent >= 0:
            children[node.parent].append(i)
    leaves: list[list[int]] = [[] for _ in range(n)]
    unique, total, longest = ([0] * n for _ in range(3))
    for i in range(n - 1, -1, -1):  # children come after their parents
        node, below = trie.nodes[i], sorted(children[i], key=lambda c: -longest[c])  # the longest path is one stretch
        stop = node.depth + len(node.tokens)
        leaves[i] = [leaf for c in below for leaf in leaves[c]] or [i]
        unique[i] = len(node.tokens) + sum(unique[c] for c in below)
        total[i] = sum(total[c] for c in below) or stop
        longest[i] = max((longest[c] for c in below), default=stop)
    plain: list[int] = []
    packed: list[int] = []
    waiting = [i for i in range(n - 1, -1, -1) if trie.nodes[i].parent < 0]
    while waiting:
        i = waiting.pop()
        saved = total[i] - unique[i] - trie.nodes[i].depth
        if packing is not None and longest[i] <= packing.longest and 0 < saved >= packing.worth * len(leaves[i]):
            packed += leaves[i]
        elif children[i]:
            waiting += reversed(children[i])
        else:
            plain.append(i)
    return plain, packed


Members = dict[Tokens, list[int]]
Below = dict[int, list[Tokens]]


def _padded(
    leaves: list[int], budget: int, trie: Trie, below: Below, members: Members, readouts: Sequence[Readout]
) -> list[Batch]:
    """Rows sorted by length, as many as fit."""
    rows = sorted((_sequence(trie, leaf), leaf) for leaf in leaves)
    rows.sort(key=lambda row: len(row[0]))
    batches: list[Batch] = []
    chosen: list[tuple[Tokens, int]] = []

    def close() -> None:
        width = len(chosen[-1][0])
        reads = [
            _read(i, readouts[i], [(0, row * width, len(tokens))])
            for row, (tokens, leaf) in enumerate(chosen)
            for sequence in below[leaf]
            for i in members[sequence]
        ]
        batches.append(Batch(tuple(tokens for tokens, _ in chosen), tuple(reads)))

    for row in rows:  # ascending: the new row is the widest
        if chosen and len(row[0]) * (len(chosen) + 1) > budget:
            close()
            chosen = []
        chosen.append(row)
    if chosen:
        close()
    return batches


def _packed(
    leaves: list[int], packing: Packing, trie: Trie, below: Below, members: Members, readouts: Sequence[Readout]
) -> list[Batch]:
    """Whole subtrees one after the other in a row; the path to the next one is run again where a row ends. What a leaf
    adds to the row, from where it leaves the earlier ones, is one segment."""
    batches: list[Batch] = []
    places: dict[int, int] = {}  # where each node of the row under way begins
    tokens: list[int] = []
    segments: list[Segment] = []
    reads: list[Read] = []

    def close() -> None:
        batches.append(Batch((tuple(tokens),), tuple(reads), tuple(segments)))
        places.clear()
        tokens.clear()
        segments.clear()
        reads.clear()

    size, whole = _sizes(leaves, trie), -1
    for leaf in leaves:
        path = trie.path(leaf)
        if whole not in path:
            new = [n for n in path if n not in places]
            # the largest subtree on the way to this leaf that fits into a row, and what leads to it
            whole = next((n for n in new if trie.nodes[n].depth + size[n] <= packing.budget), leaf)
            needed = sum(len(trie.nodes[n].tokens) for n in new[: new.index(whole)]) + size[whole]
            if tokens and len(tokens) + needed > packing.limit(trie.nodes[whole].depth):
                close()
        kept = [n for n in path if n in places]
        past = _joined([(places[n], places[n] + len(trie.nodes[n].tokens)) for n in kept])
        start, depth = len(tokens), sum(len(trie.nodes[n].tokens) for n in kept)
        for node in path[len(kept) :]:
            places[node] = len(tokens)
            tokens.extend(trie.nodes[node].tokens)
        segments.append(Segment(start, len(tokens), depth, past))
        where = [(trie.nodes[n].depth, places[n], len(trie.nodes[n].tokens)) for n in path]
        reads.extend(_read(i, readouts[i], where) for sequence in below[leaf] for i in members[sequence])
    if tokens:
        close()
    return batches


def _joined(stretches: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Stretches in order, those that follow each other as one."""
    out: list[tuple[int, int]] = []
    for start, stop in stretches:
        if out and out[-1][1] == start:
            start = out.pop()[0]
        out.append((start, stop))
    return tuple(out)


def _sizes(leaves: list[int], trie: Trie) -> dict[int, int]:
    """Tokens in the subtree of each node above the leaves."""
    size = {n: len(trie.nodes[n].tokens) for leaf in leaves for n in trie.path(leaf)}
    for node in sorted(size, reverse=True):  # children come after their parents
        if trie.nodes[node].parent >= 0:
            size[trie.nodes[node].parent] += size[node]
    return size


def _below(leaves: list[int], trie: Trie) -> dict[int, list[Tokens]]:
    """For each leaf the sequences that are read in its row: those that end on its path and on no earlier leaf's."""
    ending: dict[int, list[Tokens]] = {}
    for sequence, node in trie.ends.items():
        ending.setdefault(node, []).append(sequence)
    return {leaf: [s for node in trie.path(leaf) for s in ending.pop(node, [])] for leaf in leaves}


def _sequence(trie: Trie, leaf: int) -> Tokens:
    return tuple(t for node in trie.path(leaf) for t in trie.nodes[node].tokens)


def _read(index: int, readout: Readout, where: list[tuple[int, int, int]]) -> Read:
    """``where``: stretches (first position, first place, length) that hold the sequence, in order."""
    pieces = []
    last = 0
    for position, place, length in where:
        start, stop = max(readout.start, position), min(readout.stop, position + length)
        if start < stop:
            pieces.append((place + start - position, place + stop - position))
        if position < len(readout.tokens):
            last = place + min(len(readout.tokens), position + length) - 1 - position
    return Read(index, tuple(pieces), last)
