"""Which blocks hold the beginnings of earlier sequences. Pure: it moves no memory itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from rbee_runtime.transfer import BLOCK


class Prefix:
    """A beginning of sequences, a whole number of blocks long: a node of the tree of all of them.

    Attributes:
        parent: The beginning one block shorter; ``None`` for the empty one.
        block: Where the keys and values of its last :data:`BLOCK` positions are; -1 for none.
        snapshot: Where the states after its last position are, if sequences have any; -1 for none.
        alive: Whether the block still holds them.
    """

    __slots__ = ("alive", "block", "children", "parent", "snapshot", "tokens")

    def __init__(self, parent: Prefix | None, tokens: tuple[int, ...], block: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.block = block
        self.snapshot = -1
        self.alive = True
        self.children: dict[tuple[int, ...], Prefix] = {}

    def lineage(self) -> Iterator[Prefix]:
        """Yield it and its ever shorter beginnings, but for the empty one."""
        node: Prefix | None = self
        while node is not None and node.parent is not None:
            yield node
            node = node.parent


class PrefixIndex:
    """A tree of beginnings, each step of which is a block of tokens compared one by one.

    Of the blocks, the least recently used one that nothing longer continues is given up first, and
    of the snapshots the least recently used one.

    Attributes:
        blocks: How many there are; with none, nothing is ever kept.
        has_states: Whether a sequence can go on from a snapshot only.
        snapshots: How many of these there are.
    """

    def __init__(self, blocks: int, snapshots: int | None = None) -> None:
        self.blocks = blocks
        self.has_states = snapshots is not None
        self.snapshots = snapshots or 0
        self._free_snapshots = list(reversed(range(self.snapshots)))
        self._kept: OrderedDict[Prefix, None] = OrderedDict()  # those with snapshots, alike
        self._free = list(reversed(range(blocks)))
        self._empty: dict[bool, Prefix] = {}
        # Least recently used first, and every prefix after all that continue it.
        self._used: OrderedDict[Prefix, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._used)

    def empty(self, *, long: bool) -> Prefix:
        """Return the empty beginning of sequences that turn by one of two sets of frequencies.

        What the two write into the cache differs, so they share nothing.
        """
        return self._empty.setdefault(long, Prefix(None, (), -1))

    def match(self, tokens: Sequence[int], *, long: bool) -> list[Prefix]:
        """Return the beginnings of ``tokens`` that are there, from one block to the longest."""
        node, found = self.empty(long=long), []
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            child = node.children.get(tuple(tokens[start : start + BLOCK]))
            if child is None:
                break
            found.append(child)
            node = child
        self._touch(node)
        return found

    def resumable(self, known: list[Prefix]) -> list[Prefix]:
        """Return those of the beginnings that are there up to the last one with a snapshot."""
        for count in range(len(known), 0, -1):
            if known[count - 1].snapshot >= 0:
                self._kept.move_to_end(known[count - 1])
                return known[:count]
        return []

    def take_snapshot(self, prefix: Prefix) -> int | None:
        """Return where to keep the states after a beginning, or ``None`` for nowhere.

        They are there, or there is no room for any.
        """
        if not prefix.alive or prefix.snapshot >= 0:
            return None
        if not self._free_snapshots:
            if not self._kept:
                return None
            self._forget_snapshot(next(iter(self._kept)))
        prefix.snapshot = self._free_snapshots.pop()
        self._kept[prefix] = None
        return prefix.snapshot

    def extend(self, prefix: Prefix, tokens: Sequence[int]) -> tuple[Prefix, bool] | None:
        """Return the beginning that continues ``prefix`` by a block of tokens.

        Returns:
            It, and whether it is new, so that its block has to be filled; or ``None`` where
            ``prefix`` was given up, or every block is needed for ``prefix`` itself.
        """
        key = tuple(tokens)
        if not prefix.alive:
            return None
        child = prefix.children.get(key)
        if child is not None:
            self._touch(child)
            return child, False
        if not self._free and not self._give_up(prefix):
            return None
        child = Prefix(prefix, key, self._free.pop())
        prefix.children[key] = child
        self._touch(child)
        return child, True

    def _touch(self, prefix: Prefix) -> None:
        for node in prefix.lineage():
            self._used[node] = None
            self._used.move_to_end(node)

    def _give_up(self, needed: Prefix) -> bool:
        """Free the least recently used block; return ``False`` if that is the one needed."""
        oldest = next(iter(self._used), needed)
        if oldest is needed:
            return False
        del self._used[oldest]
        assert oldest.parent is not None
        del oldest.parent.children[oldest.tokens]
        oldest.alive = False
        if oldest.snapshot >= 0:
            self._forget_snapshot(oldest)
        self._free.append(oldest.block)
        return True

    def _forget_snapshot(self, prefix: Prefix) -> None:
        del self._kept[prefix]
        self._free_snapshots.append(prefix.snapshot)
        prefix.snapshot = -1
