"""What a worker of the Ray example does to a batch; Ray itself is not installed here."""

import pyarrow as pa

from examples.ray_extraction import Worker
from hf_cap import CAPPrior
from tests.tiny import byte_tokenizer, llama


def test_a_worker_adds_the_columns_of_the_source() -> None:
    source = CAPPrior(labels=("lost", "renew"), model=(llama(), byte_tokenizer()), chat=False, n=8)
    rows = {"text": ["my card is lost", "renew my loan", "lost"], "label": ["lost", "renew", "lost"]}
    worker, batch = Worker(source, "none"), pa.table(rows)
    made = worker(batch)
    assert set(made.column_names) == {"text", "label", *source(rows)}
    assert made["prior_cap"].to_pylist() == source(rows)["prior_cap"]
    assert worker(batch.slice(1)).to_pylist() == made.slice(1).to_pylist()
