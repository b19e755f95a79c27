"""Which beginnings are remembered, and which are given up."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_runtime.prefix import Prefix, PrefixIndex
from rbee_runtime.transfer import BLOCK


def block(number: int) -> list[int]:
    return [number] * BLOCK


def remember(index: PrefixIndex, *numbers: int, long: bool = False) -> list[int]:
    """Put a sequence of blocks in and return where they are."""
    node, places = index.empty(long=long), []
    for number in numbers:
        longer = index.extend(node, block(number))
        assert longer is not None
        node, _ = longer
        places.append(node.block)
    return places


def known(index: PrefixIndex, *numbers: int, long: bool = False) -> list[int]:
    tokens = [token for number in numbers for token in block(number)]
    return [prefix.block for prefix in index.match(tokens, long=long)]


def test_what_begins_alike_shares_blocks() -> None:
    index = PrefixIndex(8)
    places = remember(index, 1, 2, 3)
    assert len(set(places)) == 3
    assert remember(index, 1, 2, 4)[:2] == places[:2]
    assert len(index) == 4
    assert known(index, 1, 2, 3, 9) == places
    assert known(index, 1, 9, 3) == places[:1]
    assert known(index, 2, 3) == []


def test_only_whole_blocks_match() -> None:
    index = PrefixIndex(8)
    (place,) = remember(index, 1)
    assert index.match(block(1)[:-1], long=False) == []
    assert [p.block for p in index.match([*block(1), 1], long=False)] == [place]


def test_the_two_kinds_are_kept_apart() -> None:
    index = PrefixIndex(8)
    remember(index, 1, long=True)
    assert known(index, 1) == []
    assert len(known(index, 1, long=True)) == 1


def test_the_longest_unused_goes_first_and_never_before_what_continues_it() -> None:
    index = PrefixIndex(4)
    remember(index, 1, 2)
    remember(index, 3, 4)
    known(index, 1, 2)
    remember(index, 5)  # takes the place of 4, not of 3, which 4 continues
    assert len(known(index, 3, 4)) == 1
    remember(index, 6)  # 2 and 1 were used before 5 and 3
    assert len(known(index, 1, 2)) == 1
    assert len(known(index, 5)) == 1


def test_a_beginning_that_was_given_up_is_not_continued() -> None:
    index = PrefixIndex(2)
    first, _ = index.extend(index.empty(long=False), block(1)) or (None, None)
    assert isinstance(first, Prefix)
    remember(index, 2, 3)
    assert not first.alive
    assert index.extend(first, block(4)) is None


def test_one_sequence_cannot_push_out_itself() -> None:
    index = PrefixIndex(2)
    remember(index, 1, 2)
    end = index.match(block(1) + block(2), long=False)[-1]
    assert index.extend(end, block(3)) is None
    assert len(known(index, 1, 2)) == 2


def test_states_are_there_after_some_beginnings_only() -> None:
    index = PrefixIndex(4, snapshots=2)
    remember(index, 1, 2, 3, 4)
    nodes = index.match([token for n in (1, 2, 3, 4) for token in block(n)], long=False)
    assert index.resumable(nodes) == []
    first, second = index.take_snapshot(nodes[0]), index.take_snapshot(nodes[2])
    assert sorted([first, second]) == [0, 1]
    assert index.take_snapshot(nodes[2]) is None
    assert index.resumable(nodes) == nodes[:3]
    assert index.resumable(nodes[:2]) == nodes[:1]
    # That was the last to be asked for: the other is given up.
    assert index.take_snapshot(nodes[1]) == second
    assert index.resumable(nodes) == nodes[:2]
    # With its block, a beginning's states are given up.
    remember(index, 5, 6)
    assert [node.alive for node in nodes] == [True, True, False, False]
    remember(index, 7)
    assert index.take_snapshot(nodes[2]) is None
    remember(index, 8)
    assert nodes[1].snapshot == -1
    assert index.take_snapshot(nodes[1]) is None


def test_without_snapshots_nothing_is_gone_on_from() -> None:
    index = PrefixIndex(2, snapshots=0)
    remember(index, 1)
    nodes = index.match(block(1), long=False)
    assert index.take_snapshot(nodes[0]) is None
    assert index.resumable(nodes) == []


def test_without_blocks_nothing_is_kept() -> None:
    index = PrefixIndex(0)
    assert index.extend(index.empty(long=False), block(1)) is None
    assert known(index, 1) == []


@given(
    blocks=st.integers(1, 5),
    sequences=st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), max_size=30),
)
@settings(deadline=None)
def test_it_never_tells_a_block_that_holds_something_else(
    blocks: int, sequences: list[list[int]]
) -> None:
    index = PrefixIndex(blocks)
    content: dict[int, list[int]] = {}
    for numbers in sequences:
        found = known(index, *numbers)
        assert [content[place] for place in found] == [numbers[: n + 1] for n in range(len(found))]
        node = index.empty(long=False)
        for n in range(len(numbers)):
            longer = index.extend(node, block(numbers[n]))
            if longer is None:
                break
            node, is_new = longer
            assert is_new == (content.get(node.block) != numbers[: n + 1] or n >= len(found))
            content[node.block] = numbers[: n + 1]
        assert len(index) <= blocks
