"""Extract priors with Ray Data: on one machine, or on a cluster, from parquet files to parquet files.

A prior source is a map function for batches, so all that a cluster needs is one class: its constructor takes
the source, and its first call opens the language model, once per worker. What a source learns from training
texts (demonstrations, calibration, the prompt) is learned once, before, and travels with it.

    pip install ray
    python examples/ray_extraction.py --dataset embedded/library-desk --output_dir runs/ray --limit 8

Ray writes each block as it is done, so the memory of a worker does not grow with the texts. A job over more
texts than fit a disk is the same with `ray.data.read_parquet("s3://...")` in the first line of `extract`.
Workers on several machines need stores of their own, since an SQLite file is for one machine.
"""

import argparse
import os
from pathlib import Path

import pyarrow as pa
from datasets import Dataset

from hf_cap import CAPPrior, load_splits
from hf_cap.lm.base import LMRuntime, using_runtime
from hf_cap.priors.base import Source


class Worker:
    """Adds the columns of a source to batches; the language model is opened by the first."""

    def __init__(self, source: Source, store: str) -> None:
        self.source = source
        self.runtime = LMRuntime(store=store)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """A batch with the columns `words`, `prior_<name>`, diagnostics and `provenance`."""
        with using_runtime(self.runtime):
            return pa.table(self.source(batch.to_pydict()))


def extract(data: Dataset, source: Source, output: Path, workers: int, store: str) -> None:
    """Write the texts with their priors, one parquet file per block."""
    import ray.data

    blocks = ray.data.from_arrow(data.with_format("arrow")[:]).repartition(4 * workers)
    mapped = blocks.map_batches(
        Worker,
        fn_constructor_args=(source, store),
        batch_format="pyarrow",
        batch_size=32,
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,  # for a GPU each: num_gpus=1
    )
    mapped.write_parquet(str(output.absolute()))


def main() -> None:
    """Read the arguments, make the source and run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--model", default="embedded/smollm2-135m-instruct")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, help="number of texts, for a trial")
    parser.add_argument("--n", type=int, default=100, help="perturbations of a text")
    parser.add_argument("--store", default="none", help="file for the answers; none by default")
    options = parser.parse_args()
    import ray

    # beside the workers, reading and writing need a core; a cluster counts its own
    ray.init(num_cpus=None if "RAY_ADDRESS" in os.environ else options.workers + 1)
    train = load_splits(options.dataset)["train"]
    source = CAPPrior.from_dataset(train, model=options.model, n=options.n)
    some = train.select(range(min(options.limit or len(train), len(train))))
    extract(some, source, options.output_dir, options.workers, options.store)
    print(f"Wrote the priors of {len(some)} texts to {options.output_dir}")


if __name__ == "__main__":
    main()
