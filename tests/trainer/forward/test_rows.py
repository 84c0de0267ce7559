"""Packed rows by hand."""

from __future__ import annotations

from trainer.forward.rows import GroupTokens, Part, packed


def test_a_row_by_hand():
    row = packed(
        [GroupTokens([7, 8], [[1, 2, 3], [4], [5, 6]]), GroupTokens([9], [[1, 2]]), GroupTokens([3], [[4], [5]])]
    )
    assert row.ids == [7, 8, 1, 2, 5, 9, 1, 3]
    assert row.positions == [0, 1, 2, 3, 2, 0, 1, 0]
    assert row.source == [1, 2, 3, 1, 1, 4, 5, 6, 7, 7]
    assert row.parts == [Part(0, 2, (2, 1)), Part(5, 2, ()), Part(7, 1, ())]
    assert [part.stop for part in row.parts] == [5, 7, 8]


def test_every_source_stands_before_its_token(random_groups):
    groups = random_groups([(5, [4, 1, 7]), (3, [6]), (2, [1, 1])])
    row = packed(groups)
    targets = [token for group in groups for completion in group.completions for token in completion]
    position = 0
    for group in groups:
        for completion in group.completions:
            text = [*group.prompt, *completion]
            for t in range(len(completion)):
                index = row.source[position]
                assert row.ids[index] == text[len(group.prompt) + t - 1]
                assert row.positions[index] == len(group.prompt) + t - 1
                position += 1
    assert position == len(row.source) == len(targets)
