#!/usr/bin/env bash
# The wheel as a user gets it: built, installed without the source tree, its command and its data files used.
set -euo pipefail
python=$(realpath -s "$1")
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
"$python" -m build --wheel --outdir "$room" . >"$room/build.log" || { cat "$room/build.log"; exit 1; }
# dependencies come from the environment that the tests use; hf_cap itself only from the wheel
"$python" -m venv "$room/venv"
"$room/venv/bin/python" -m pip install --quiet --no-deps "$room"/*.whl
site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
cd "$room"
echo "$site" >"$("$room/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
"$room/venv/bin/hf-cap" --help >/dev/null
"$room/venv/bin/hf-cap" train --help >/dev/null
"$room/venv/bin/python" - "$room" <<'PYTHON'
import sys
from importlib.resources import files

import hf_cap

root = files("hf_cap")
assert str(root).startswith(sys.argv[1]), f"hf_cap came from {root}, not from the wheel"
for name in (
    "py.typed",
    "demo_data/train.jsonl",
    "demo_data/test.jsonl",
    "demo_data/labels.json",
    "recipes/demo/fit.yaml",
    "priors/templates/cap.yaml",
    "evaluation/space/README.md.in",
    "evaluation/english.json",
    "model_cards/model.md.jinja",
    "report/page/report.html.j2",
):
    assert root.joinpath(name).is_file(), f"the wheel lacks {name}"
splits = hf_cap.load_splits("embedded/library-desk")
assert len(splits["train"]) == 120, splits
print("wheel: ok")
PYTHON
