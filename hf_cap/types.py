"""Names for tensors by role, with their shapes, for readers and type checkers.

`batch` examples, `tokens` positions of the padded batch, `words` words of the longest text in the
batch, `hidden` embedding width, `labels` size of the label space, `masks` perturbations of one text.
"""

from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

TokenIds: TypeAlias = Int[Tensor, "batch tokens"]
TokenScores: TypeAlias = Float[Tensor, "batch tokens"]
TokenMask: TypeAlias = Bool[Tensor, "batch tokens"] | Int[Tensor, "batch tokens"]
TokenWords: TypeAlias = Int[Tensor, "batch tokens"]
"""Index of the word that a token belongs to, -1 for none."""
Embeddings: TypeAlias = Float[Tensor, "batch tokens hidden"]
WordScores: TypeAlias = Float[Tensor, "batch words"]
WordMask: TypeAlias = Bool[Tensor, "batch words"]
"""True where a word exists and takes part; padding and truncated words are False."""
Logits: TypeAlias = Float[Tensor, "batch labels"]
Labels: TypeAlias = Int[Tensor, " batch"]
PerExample: TypeAlias = Float[Tensor, " batch"]
Scalar: TypeAlias = Float[Tensor, ""]
