"""The trie on paper, and its mask against the definition."""

import random

import numpy as np

from hf_cap.lm.packed import Continuation, build_trie


def test_a_trie_on_paper() -> None:
    #  1 ─ 2 ─ 3        answers: "3 4" after 1 2, "5" after 1 2, "2" after 1, "8" after 7
    #  7
    ends = [((1, 2, 3, 4), 2), ((1, 2, 5), 1), ((7, 8), 1), ((1, 2), 1), ((1, 2, 3), 1)]
    trie = build_trie([Continuation(*end) for end in ends])
    assert trie.tokens.tolist() == [1, 2, 3, 7]
    assert trie.depth.tolist() == [0, 1, 2, 0]
    assert trie.end.tolist() == [3, 3, 3, 4]
    steps = list(zip(trie.step_nodes.tolist(), trie.step_tokens.tolist(), strict=True))
    assert sorted(steps) == [(0, 2), (1, 3), (1, 5), (2, 4), (3, 8)]
    answers = [[steps[s] for s in answer] for answer in trie.answers]
    assert answers == [[(1, 3), (2, 4)], [(1, 5)], [(3, 8)], [(0, 2)], [(1, 3)]]


def test_paths_and_masks_against_their_definition() -> None:
    draw = random.Random(0)
    rows = [
        Continuation(tuple(draw.randrange(3) for _ in range(draw.randrange(2, 8))), 1)
        for _ in range(80)
    ]
    trie = build_trie(rows)
    paths: list[tuple[int, ...]] = []
    for token, depth in zip(trie.tokens.tolist(), trie.depth.tolist(), strict=True):
        above = next(p for p in reversed([(), *paths]) if len(p) == depth)
        paths.append((*above, token))
    assert len(set(paths)) == len(paths)
    assert set(paths) == {row.ids[:i] for row in rows for i in range(1, len(row.ids))}

    def is_above(node: int, other: int) -> bool:
        return paths[other][: len(paths[node])] == paths[node]

    for start, stop in ((0, len(trie)), (5, 17), (40, 41)):
        run, held = range(start, stop), trie.ancestors(start)
        expected = [[is_above(key, query) for key in [*held.tolist(), *run]] for query in run]
        assert np.array_equal(trie.visible(held, start, stop), expected)
        assert {k for q in run for k in range(start) if is_above(k, q)} == set(held.tolist())
