"""The served scorer against a real vLLM server; `serve_vllm.sh` starts one and runs this."""

import os

import pytest

from hf_cap.lm.base import Query, ScorerRuntime, ScorerSettings
from hf_cap.lm.local import load_scorer
from hf_cap.lm.served import ServedScorer, open_served
from tests.scoring.queries import ANSWERS, LONG, largest_difference

pytestmark = pytest.mark.server
QUERIES = [
    Query(LONG, text, answer) for text in ("my card is lost", "naïve café 🙂") for answer in ANSWERS
]
TOLERANCE = 1e-2
"""The server computes in float32 too, in kernels of its own that sum in another order."""


def test_a_vllm_server_scores_as_the_local_model_does() -> None:
    url = os.environ.get("HF_CAP_TEST_SERVER")
    if url is None:
        pytest.skip("no server: run tests/scoring/serve_vllm.sh")
    model = os.environ["HF_CAP_TEST_MODEL"]
    runtime = ScorerRuntime(max_concurrency=4)
    served = open_served(ScorerSettings(model=model, base_url=url), runtime)
    assert served.dialect == "prompt_logprobs"
    local = load_scorer(ScorerSettings(model=model, dtype="float32"), ScorerRuntime(device="cpu"))
    expected = local.score(QUERIES)
    assert largest_difference(served.score(QUERIES), expected) < TOLERANCE
    without = ServedScorer(served.connection, model)
    assert without.dialect == "echo"
    ascii_only = [place for place, query in enumerate(QUERIES) if query.answer.isascii()]
    difference = largest_difference(
        without.score([QUERIES[place] for place in ascii_only]), [expected[p] for p in ascii_only]
    )
    assert difference < TOLERANCE
