"""Secrets are found in everything that is published, and ordinary texts are not taken for them."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset, Features, List, Value
from safetensors.torch import save_file

from hf_cap.cards import escape
from hf_cap.secret_scan import find_secret, find_secret_in_file, without_secrets

# in two parts, so that nobody's scan of this file finds them
SECRETS = {
    "hf_" + "A1" * 17: "Hugging Face Token", "hf_oauth_" + "eyJhbGciOi": "Hugging Face Token",
    "ghp_" + "a1B2" * 9: "GitHub Token", "github_pat_" + "11AAAAAAA0_" + "a1" * 29: "GitHub Token",
    "glpat-" + "a1B2" * 5: "GitLab Token", "AKIA" + "ABCD1234" * 2: "AWS Access Key",
    "AIza" + "Ab1_-" * 7: "Google API Key",
    "xoxb-" + "123456789012-123456789012-AbCdEf123456": "Slack Token",
    "sk-proj-" + "a1B2" * 9: "OpenAI Token", "sk_live_" + "a1B2" * 6: "Stripe Access Key",
    "Authorization: Bearer " + "a1B2" * 8: "Bearer Token", "api_key=" + "a1B2" * 8: "Key or Password",
    '"OPENAI_API_KEY": "' + "a1B2" * 8: "Key or Password",
    "http://gpu7-user:" + "s3cr3t@gpu7": "Address with Password",
    "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0.abc": "JSON Web Token",
    "-----BEGIN RSA " + "PRIVATE KEY-----\nMIIEpAIBAAKCAQEA" + "a1B2" * 9: "Private Key",
}  # fmt: skip

ORDINARY = """
hf_cap hf_hub_download hf_internal_testing_tiny_random_model sk-learn task-specific-language-modelling-2024
I forgot my password: please send a new one. The secret: "never give up". password = correct
My API key does not work, what is the api_key=YOUR_KEY in the manual? The bearer of this letter is 21.
Write to me@example.com or http://example.com:8080/a@b, as in https://user:password@host and ftp://a:***@b
-----BEGIN RSA PRIVATE KEY----- is the first line of the file; ASIA PACIFIC, AKIAK
550e8400-e29b-41d4-a716-446655440000 da39a3ee5e6b4b0d3255bfef95601890afd80709 4111 1111 1111 1111
{"pad_token": "<pad>", "auth_token": null, "tokenizer_class": "PreTrainedTokenizerFast"}
Donaudampfschifffahrtsgesellschaftskapitänsmütze 2026-11-27T21:18:22.123456789
"""


@pytest.mark.parametrize(("secret", "kind"), SECRETS.items())
def test_secrets_are_found_in_any_file(secret: str, kind: str, tmp_path: Path) -> None:
    assert find_secret(f"a text with {secret} in it") == kind
    middle = secret[len(secret) // 2 :][:4]
    assert middle not in without_secrets(f"--x {secret}")
    (tmp_path / "README.md").write_text(f"| {escape(secret)} |")
    (tmp_path / "config.json").write_text(json.dumps({"note": f"see\n{secret}"}))
    (tmp_path / "vocab.bpe").write_bytes(b"\xff" + secret.encode())
    save_file({"w": torch.zeros(1)}, tmp_path / "model.safetensors", {"note": secret})
    texts = [f"text {number}" for number in range(200)]
    texts[137] += f" {secret}"
    plain, deep = {"text": texts}, {"text": [[{"said": text}] for text in texts]}
    Dataset.from_dict(plain).to_parquet(tmp_path / "plain.parquet", batch_size=50)
    features = Features({"text": List({"said": Value("string")})})
    Dataset.from_dict(deep, features).to_parquet(tmp_path / "deep.parquet")
    Dataset.from_dict({secret: [1]}).to_parquet(tmp_path / "column.parquet")
    found = {file.name: find_secret_in_file(file) for file in tmp_path.iterdir()}
    row = (kind, ", column 'text', row 137,")
    places = dict.fromkeys(("README.md", "config.json", "vocab.bpe", "model.safetensors"), (kind, ""))
    places |= {"plain.parquet": row, "deep.parquet": row, "column.parquet": (kind, "")}
    assert found == places


def test_ordinary_texts_are_no_secrets(tmp_path: Path) -> None:
    assert find_secret(ORDINARY) is None
    assert without_secrets(ORDINARY) == ORDINARY
    Dataset.from_dict({"text": ORDINARY.splitlines()}).to_parquet(tmp_path / "x.parquet")
    assert find_secret_in_file(tmp_path / "x.parquet") is None
