"""The served model against a real vLLM server; `serve_vllm.sh` starts one and runs this."""

import os

import pytest

from hf_cap.lm.base import LMRuntime, LMSettings, Query
from hf_cap.lm.local import load_local
from hf_cap.lm.served import ServedLanguageModel
from tests.lm.queries import ANSWERS, LONG, largest_difference

pytestmark = pytest.mark.server
QUERIES = [Query(LONG, text, answer) for text in ("my card is lost", "naïve café 🙂") for answer in ANSWERS]
TOLERANCE = 1e-2
"""The server computes in float32 too, in kernels of its own that sum in another order."""


def test_a_vllm_server_scores_as_the_local_model_does() -> None:
    url = os.environ.get("HF_CAP_TEST_SERVER")
    if url is None:
        pytest.skip("no server: run tests/lm/serve_vllm.sh")
    model = os.environ["HF_CAP_TEST_MODEL"]
    settings = LMSettings(model=model, base_url=url)
    runtime = LMRuntime(max_concurrency=4)
    served = ServedLanguageModel(settings, runtime)
    assert served.dialect == "prompt_logprobs"
    local = load_local(LMSettings(model=model, dtype="float32"), LMRuntime(device="cpu"))
    expected = local.log_probs(QUERIES)
    assert largest_difference(served.log_probs(QUERIES), expected) < TOLERANCE
    without = ServedLanguageModel(settings, runtime, tokenizer=None)
    assert without.dialect == "echo"
    ascii_only = [place for place, query in enumerate(QUERIES) if query.answer.isascii()]
    difference = largest_difference(
        without.log_probs([QUERIES[place] for place in ascii_only]), [expected[p] for p in ascii_only]
    )
    assert difference < TOLERANCE
