"""How many tokens go through the model at a time, and what to do when that was too many."""

import logging

import torch

from ..errors import ExtractError

_logger = logging.getLogger(__name__)
_SMALLEST = 16
_CPU_MESSAGES = ("can't allocate memory", "DefaultCPUAllocator")


def out_of_memory(error: RuntimeError) -> bool:
    """Whether the error says that memory ran out, on a CPU or an accelerator."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        message in str(error) for message in _CPU_MESSAGES
    )


class MemoryBudget:
    """A number of tokens that shrinks until the work fits.

    Args:
        tokens: Tokens of one forward pass to begin with.
    """

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def halve(self, error: RuntimeError) -> None:
        """Go on with half the tokens.

        Raises:
            ExtractError: the budget is as small as is sensible already.
        """
        if self.tokens <= _SMALLEST:
            raise ExtractError(
                f"Out of memory with only {self.tokens} tokens at a time. Use a smaller model, a shorter "
                "prompt, quantization='4bit', or another device."
            ) from error
        self.tokens = max(_SMALLEST, self.tokens // 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        _logger.warning("Out of memory; going on with a token budget of %d.", self.tokens)
