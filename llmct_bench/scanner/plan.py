"""Which forward passes are needed: pure arithmetic on token sequences.

In a causal model a state does not depend on what follows. So a sequence that is a prefix of another one is not
run: its readouts are positions of the longer one. All turns of a conversation cost one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmct_bench.scanner.render import Readout

#: Tokens per pass, padding included.
TOKEN_BUDGET = 4096


@dataclass(frozen=True)
class Read:
    """Where readout ``index`` (suite order) is found in a batch: row, content tokens [start, stop), last token."""

    index: int
    row: int
    start: int
    stop: int
    last: int


@dataclass(frozen=True)
class Batch:
    """Token sequences that run together, right-padded, and what is read from them."""

    rows: tuple[tuple[int, ...], ...]
    reads: tuple[Read, ...]

    @property
    def width(self) -> int:
        """Length of the longest row."""
        return max(map(len, self.rows))


@dataclass(frozen=True)
class Plan:
    """All passes of a scan."""

    batches: tuple[Batch, ...]

    @property
    def tokens(self) -> int:
        """Tokens run, without padding."""
        return sum(len(r) for b in self.batches for r in b.rows)

    @property
    def padded(self) -> int:
        """Tokens run, padding included."""
        return sum(b.width * len(b.rows) for b in self.batches)


def make_plan(readouts: Sequence[Readout], budget: int = TOKEN_BUDGET) -> Plan:
    """Merge prefixes into chains, sort by length, fill batches up to ``budget`` padded tokens. Deterministic."""
    owners = chains([r.tokens for r in readouts])
    sequences = sorted(set(owners), key=lambda s: (len(s), s))
    members: dict[tuple[int, ...], list[int]] = {s: [] for s in sequences}
    for i, owner in enumerate(owners):
        members[owner].append(i)
    batches: list[Batch] = []
    rows: list[tuple[int, ...]] = []
    for sequence in sequences:  # ascending: the new row is the widest
        if rows and len(sequence) * (len(rows) + 1) > budget:
            batches.append(_batch(rows, members, readouts))
            rows = []
        rows.append(sequence)
    if rows:
        batches.append(_batch(rows, members, readouts))
    return Plan(tuple(batches))


def chains(sequences: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """For each sequence the longest given sequence that begins with it (itself where there is none longer)."""
    order = sorted(set(sequences), reverse=True)  # in reverse order an extension comes right before its prefixes
    owner: dict[tuple[int, ...], tuple[int, ...]] = {}
    current: tuple[int, ...] = ()
    for sequence in order:
        if current[: len(sequence)] != sequence:
            current = sequence
        owner[sequence] = current
    return [owner[s] for s in sequences]


def _batch(
    rows: list[tuple[int, ...]], members: dict[tuple[int, ...], list[int]], readouts: Sequence[Readout]
) -> Batch:
    reads = [
        Read(i, row, readouts[i].start, readouts[i].stop, len(readouts[i].tokens) - 1)
        for row, sequence in enumerate(rows)
        for i in members[sequence]
    ]
    return Batch(tuple(rows), tuple(reads))
