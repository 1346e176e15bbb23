"""Keys and values of a prompt prefix, of the path above the present run of nodes, and of that run."""

from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class TreeLayer(DynamicLayer):
    """One layer: `[prefix | path | run]`. Only `TreeCache.advance` changes what is kept.

    The model's forward pass adds the run's rows behind the others for its own attention and leaves the
    prefix as it is, so the same prefix serves any number of passes and is never copied per row.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.prefix: tuple[Tensor, Tensor] | None = None
        self.path: tuple[Tensor, Tensor] | None = None
        self.run: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values that the run attends to, each `(1, heads, prefix + path + run, width)`."""
        self.run = (key_states, value_states)
        parts = [part for part in (self.prefix, self.path, self.run) if part is not None]
        keys, values = zip(*parts, strict=True)
        return torch.cat(keys, dim=-2), torch.cat(values, dim=-2)

    def get_seq_length(self) -> int:
        """Rows that are kept: prefix and path."""
        return sum(part[0].shape[-2] for part in (self.prefix, self.path) if part is not None)


class TreeCache(Cache):
    """Cache of one prefix, through which a trie is read run by run."""

    def __init__(self) -> None:
        super().__init__(layer_class_to_replicate=TreeLayer)

    @property
    def _tree(self) -> list[TreeLayer]:
        return cast(list[TreeLayer], self.layers)

    @property
    def nbytes(self) -> int:
        """Memory of the prefix."""
        return sum(
            tensor.nbytes
            for layer in self._tree
            if layer.prefix is not None
            for tensor in layer.prefix
        )

    def settle(self) -> None:
        """Make the run that was just read the prefix."""
        for layer in self._tree:
            layer.prefix, layer.run = layer.run, None

    def advance(self, rows: Tensor) -> None:
        """Make `rows` of `[path | run]` the path of the next run, and forget the rest."""
        for layer in self._tree:
            parts = [part for part in (layer.path, layer.run) if part is not None]
            keys, values = (torch.cat(side, dim=-2) for side in zip(*parts, strict=True))
            layer.path = (keys.index_select(-2, rows), values.index_select(-2, rows))
            layer.run = None

    def rewind(self) -> None:
        """Forget path and run: ready for another trie."""
        for layer in self._tree:
            layer.path = layer.run = None

    def abandon(self) -> None:
        """Forget the run of a pass that failed."""
        for layer in self._tree:
            layer.run = None
