"""A trie of token sequences, laid out so that a model can read it as one sequence.

Nodes are numbered in preorder, so node `j` is an ancestor of `i` (or `i` itself) exactly if
`j <= i < end[j]`: that is the attention mask of any run of nodes. The nodes before a run that it still
needs are the ancestors of its *first* node, as any other ancestor of a later node comes after that one. So
a trie can be cut into runs of any length, and between two only one path of keys and values is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]


class Continuation(NamedTuple):
    """A prompt with its answer behind it; the last `scored` tokens are the answer's."""

    ids: tuple[int, ...]
    scored: int


@dataclass(frozen=True, slots=True)
class Trie:
    """Distinct token prefixes of many continuations, and the steps whose probability is wanted.

    A step is a pair (node, next token). The last token of a continuation costs no node of its own.
    """

    tokens: Integers  # (nodes,) token of each node, in preorder
    depth: Integers  # (nodes,) tokens above each node, 0 for a root
    end: Integers  # (nodes,) first node after the subtree of each node
    step_nodes: Integers  # (steps,) node of each step, ascending
    step_tokens: Integers  # (steps,) next token of each step
    answers: list[Integers]  # per continuation the steps of its answer, in order

    def __len__(self) -> int:
        return len(self.tokens)

    def ancestors(self, node: int) -> Integers:
        """The nodes above `node`, from the root down."""
        return np.flatnonzero(self.end[:node] > node)

    def visible(self, above: Integers, start: int, stop: int) -> NDArray[np.bool_]:
        """Which of the nodes `above` and `start..stop-1` each node of the run may attend to.

        `above` are the ancestors of `start`. The result is `(stop - start, len(above) + stop - start)`, true
        for an ancestor or the node itself.
        """
        queries = np.arange(start, stop)[:, None]
        keys = np.concatenate([above, np.arange(start, stop)])
        return np.asarray((keys <= queries) & (queries < self.end[keys]))


def build_trie(rows: Sequence[Continuation]) -> Trie:
    """The trie of `rows`: one node for each distinct token prefix, one step for each distinct pair."""
    tokens: list[int] = []
    depth: list[int] = []
    end: list[int] = []
    steps: dict[tuple[int, int], int] = {}
    answers: list[list[int]] = [[] for _ in rows]
    path: list[int] = []
    # in lexicographic order each row shares its longest known prefix with the row before it
    for index in sorted(range(len(rows)), key=lambda i: rows[i].ids):
        ids, scored = rows[index]
        shared, limit = 0, min(len(path), len(ids) - 1)
        while shared < limit and tokens[path[shared]] == ids[shared]:
            shared += 1
        for node in path[shared:]:
            end[node] = len(tokens)
        del path[shared:]
        for position in range(shared, len(ids) - 1):
            path.append(len(tokens))
            tokens.append(ids[position])
            depth.append(position)
            end.append(0)
        answers[index] = [
            steps.setdefault((path[position - 1], ids[position]), len(steps))
            for position in range(len(ids) - scored, len(ids))
        ]
    for node in path:
        end[node] = len(tokens)
    pairs = np.array(list(steps), dtype=np.int64).reshape(-1, 2)
    order = np.argsort(pairs[:, 0], kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    nodes = np.array([tokens, depth, end], dtype=np.int64)
    steps_of = [place[answer] for answer in answers]
    return Trie(nodes[0], nodes[1], nodes[2], pairs[order, 0], pairs[order, 1], steps_of)
