"""`python -m benchmarks.study recipes/study/demo.yaml`: does a prior help, and more than its controls?"""

import argparse
import os
import sys
from pathlib import Path

from benchmarks.study.results import write_tables
from benchmarks.study.settings import read_settings
from hf_cap.errors import CAPError
from hf_cap.utils import parse_yaml


def main() -> int:
    """Make the runs that have no result, then write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__)
    parser.add_argument("recipe", nargs="?", help="YAML file with the settings")
    parser.add_argument(
        "--set", nargs="+", default=[], metavar="NAME=VALUE", help="settings, the value as YAML"
    )
    arguments = parser.parse_args()
    try:
        given = {
            name: parse_yaml(value, name, typed=True)
            for name, _, value in (s.partition("=") for s in arguments.set)
        }
        settings = read_settings(arguments.recipe, given)
        if settings.jobs > 1:
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // settings.jobs)))
        from benchmarks.study.runs import quiet, run_study  # after the number of threads is set

        quiet()
        failed = {} if settings.report_only else run_study(settings)
    except CAPError as error:
        print(f"study: {error}", file=sys.stderr)
        return 2
    for file in write_tables(Path(settings.output_dir)):
        print(file)
    for run, reason in failed.items():
        print(f"{run.folder} failed: {reason}", file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
