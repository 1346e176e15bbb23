"""Running means of what is logged beside the loss."""

from collections.abc import Callable

import torch
from torch import Tensor


class Meter:
    """Weighted means by name, over steps and processes, kept on the device until they are read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def add(self, name: str, values: Tensor, weights: Tensor | int) -> None:
        """Count `values` with `weights`, both `(n,)`; or a single value with a single weight."""
        values = values.detach().float()
        weights = torch.as_tensor(weights, device=values.device).detach().float()
        found = torch.stack([(values * weights).sum(), weights.sum()])
        self._sums[name] = self._sums[name] + found if name in self._sums else found

    def flush(self, gather: Callable[[Tensor], Tensor], prefix: str = "") -> dict[str, float]:
        """Means over all processes since the last flush; names without any weight are left out.

        Args:
            gather: Puts the tensors of all processes one after the other; every process must call.
            prefix: Put before each name.
        """
        result = {}
        for name, found in self._sums.items():
            total, weight = gather(found[None]).reshape(-1, 2).sum(0).tolist()
            if weight > 0:
                result[prefix + name] = total / weight
        self._sums = {}
        return result
