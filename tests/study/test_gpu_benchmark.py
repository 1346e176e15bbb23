"""The benchmark for GPUs at toy size: its ways to score give the same scores."""

import pytest
import torch

from benchmarks.gpu import MODES, SMALL, measure


# transformers 5.23 passes `_compile` for the prefix's own mask, and torch's compiler uses `script_method`,
# which torch 2.13 deprecates
@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_all_ways_to_score_agree_and_each_mode_is_timed() -> None:
    with torch.compiler.set_stance("force_eager"):
        found = measure(SMALL, torch.device("cpu"))
    scoring = found["scoring"]
    assert max(scoring["mean_abs_difference"].values()) < 1e-4
    # the trie leaves out what texts share, the padded side computes each prompt whole
    whole, packed = (
        scoring["sides"][name] for name in ("whole prompts, padded", "packed, FlexAttention")
    )
    tokens = [one["tokens_per_second"] * one["seconds"] for one in (whole, packed)]
    assert tokens[0] > 3 * tokens[1]
    dense = scoring["dense_tokens_per_second"]
    assert packed["share_of_dense"] == pytest.approx(packed["tokens_per_second"] / dense)
    assert all(list(one) == MODES for one in found["aligned_steps"].values())
