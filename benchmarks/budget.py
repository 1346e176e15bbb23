"""Error of the prior `cap` over the questions asked per text, for designs, stopping rules and n.

    python benchmarks/budget.py --data FOLDER [--words 8 9] [--texts 10 10] [--seeds 20]

FOLDER holds `train.jsonl` (rows with `text` and `label`) and `labels.json`, such as Banking77. First a
language model is asked about every mask of some texts: n = 2,000 are all there are up to 11 words, so the
reference carries no sampling noise. All answers are kept in the score store, so a killed run goes on
where it stopped. Then each setting is run by `CAPPrior` itself, over many seeds, on these answers; `lexicon`
is the source of that name, in the scale that fits best, with the questions for each word and label divided
by the texts (not with `--without_lexicon`). The error is the root of the mean squared difference from the
reference, as a share of the reference's root mean square; the correlation is taken over the words of a
text. Nothing of it depends on the machine.
"""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_cap.labels import label_phrase
from hf_cap.lm.base import LanguageModel, LMRuntime, LMSettings, MockLanguageModel
from hf_cap.lm.open import open_language_model
from hf_cap.priors.cap import CAPPrior
from hf_cap.priors.channel import LexiconPrior
from hf_cap.priors.masks import draw_masks
from hf_cap.utils import subsample, versions, write_json
from hf_cap.words import fold, keep_words, split_words, word_strings

RESULTS = Path(__file__).parent / "results" / "budget.json"
REFERENCE = 2000
Answers = dict[tuple[str, str], float]
"""Perturbed text and label as written, to the label's log-probability in nats."""

SETTINGS: dict[str, dict[str, Any]] = {
    f"{design} n={n}": {"design": design, "n": n}
    for n in (20, 25, 30, 35, 50, 70, 100)
    for design in ("iid", "balanced", "planned")
} | {
    f"{design} n<=100, target_std={target}": {"design": design, "n": 100, "target_std": target}
    for target in (0.2, 0.25, 0.3, 0.4, 0.5)
    for design in ("iid", "balanced", "planned")
}


def chosen_texts(
    folder: Path, words: Sequence[int], texts: Sequence[int]
) -> tuple[list[dict[str, str]], list[str]]:
    """So many rows of each number of words, evenly spread over the training split; the labels."""
    labels = json.loads((folder / "labels.json").read_text())
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    lengths = [len(split_words(row["text"])) for row in rows]
    found = [
        row
        for size, count in zip(words, texts, strict=True)
        for row in subsample([r for r, n in zip(rows, lengths, strict=True) if n == size], count)
    ]
    return found, labels


def asked(rows: Sequence[dict[str, str]], labels: list[str], language_model: LanguageModel) -> Answers:
    """The answer for every mask of the texts, from the store where it has them."""
    opened = CAPPrior(labels=tuple(labels), model=language_model, demonstrations=0).open()
    found: Answers = {}
    for number, row in enumerate(rows):
        text, spans = row["text"], split_words(row["text"])
        label = opened.labels[labels.index(row["label"])]
        masks = draw_masks(text, len(spans), REFERENCE, 0).kept.tolist()
        texts = [keep_words(text, spans, kept) for kept in masks]
        prompt = opened.prompt(text)
        for start in range(0, len(texts), 100):
            some = texts[start : start + 100]
            scores = language_model.log_probs([opened.query(prompt, t, label) for t in some])
            found |= {(t, label): one.total for t, one in zip(some, scores, strict=True)}
        print(f"text {number + 1} of {len(rows)}: {len(texts)} masks", flush=True)
    return found


def replay(answers: Answers, prompt: str, answer: str) -> float:
    """The answer of the language model to a plain prompt of `CAPPrior`."""
    text = prompt.rpartition("Message: ")[2].removesuffix("\nCategory:")
    return answers[text, answer.strip()]


def prior_of(
    rows: Sequence[dict[str, str]], labels: list[str], answers: Answers, **options: Any
) -> dict[str, Any]:
    """The columns of `cap` for the texts."""
    model = MockLanguageModel(partial(replay, answers))
    source = CAPPrior(
        labels=tuple(labels), model=model, demonstrations=0, chat=False, sign="signed", **options
    )
    made = source({name: [row[name] for row in rows] for name in ("text", "label")})
    return {"scores": made["prior_cap"], "masks": made["cap_masks"], "std": made["cap_std"]}


def answers_by_mask(rows: Sequence[dict[str, str]], answers: Answers) -> dict[str, dict[bytes, float]]:
    """The answers of each text by the bytes of its masks."""
    found = {}
    for row in rows:
        text, spans, label = row["text"], split_words(row["text"]), label_phrase(row["label"])
        masks = draw_masks(text, len(spans), REFERENCE, 0).kept
        texts = [keep_words(text, spans, kept.tolist()) for kept in masks]
        found[text] = {k.tobytes(): answers[t, label] for k, t in zip(masks, texts, strict=True)}
    return found


def by_lexicon(
    rows: Sequence[dict[str, str]], labels: list[str], language_model: LanguageModel, truth: list[list[float]]
) -> dict[str, float | None]:
    """As `compared`, of the prior `lexicon` of the words of the texts."""
    words = {fold(word) for row in rows for word in word_strings(row["text"])}
    options: dict[str, Any] = {"demonstrations": 0, "sign": "signed"}
    source = LexiconPrior(labels=tuple(labels), model=language_model, **options).asked(words)
    columns = {"text": [row["text"] for row in rows]}
    made = source({**columns, "label": [labels.index(row["label"]) for row in rows]})
    scores = made["prior_lexicon"]
    flat, right = np.concatenate(scores), np.concatenate(truth)
    scale = float(flat @ right / (flat @ flat))
    one = {
        "scores": [[scale * score for score in of_text] for of_text in scores],
        "masks": [len(words) * len(labels) / len(rows)],
        "std": [[0.0] * len(of_text) for of_text in scores],
    }
    return compared([one], truth) | {"error_by_std": None}


def compared(made: list[dict[str, Any]], truth: list[list[float]]) -> dict[str, float | None]:
    """Questions, error, correlation and promised error of a setting, over seeds and texts."""
    errors, sizes, correlations, stds = [], [], [], []
    for one in made:
        for scores, std, right in zip(one["scores"], one["std"], truth, strict=True):
            errors.append(np.square(np.subtract(scores, right)).sum())
            stds.append(np.square(std).sum())
            sizes.append(np.square(right).sum())
            correlations.append(np.corrcoef(scores, right)[0, 1])
    return {
        "questions": float(np.mean([one["masks"] for one in made])),
        "error": float(np.sqrt(np.sum(errors) / np.sum(sizes))),
        "error_by_std": float(np.sqrt(np.sum(stds) / np.sum(sizes))),
        "correlation": float(np.mean(correlations)),
    }


def main() -> None:
    """Ask, run and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.jsonl and labels.json")
    parser.add_argument("--model", default=LMSettings().model)
    parser.add_argument("--words", type=int, nargs="+", default=[8, 9])
    parser.add_argument(
        "--texts", type=int, nargs="+", default=[10, 10], help="texts of each number of words"
    )
    parser.add_argument("--store", default="default", help="file that keeps the answers")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--without_lexicon", action="store_true")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    rows, labels = chosen_texts(options.data, options.words, options.texts)
    runtime = LMRuntime(device="cpu", store=options.store)
    language_model = open_language_model(LMSettings(model=options.model), runtime)
    answers = asked(rows, labels, language_model)
    truth = prior_of(rows, labels, answers, n=REFERENCE)["scores"]
    figures = {
        name: compared(
            [prior_of(rows, labels, answers, seed=seed, **each) for seed in range(options.seeds)], truth
        )
        for name, each in SETTINGS.items()
    }
    if not options.without_lexicon:
        figures["lexicon"] = by_lexicon(rows, labels, language_model, truth)
    facts = {
        "model": options.model,
        "texts": dict(zip(map(str, options.words), options.texts, strict=True)),
        "seeds": options.seeds,
        "settings": figures,
        "versions": versions(),
    }
    write_json(options.out, facts)
    print("| setting | questions | error | by `cap_std` | correlation |\n|---|---|---|---|---|")
    for name, one in figures.items():
        print(
            f"| {name} | "
            + " | ".join("-" if value is None else f"{value:.3g}" for value in one.values())
            + " |"
        )


if __name__ == "__main__":
    main()
