"""The finished cards in `model_cards/examples`, from recorded facts.

`python -m tests.publishing.examples` writes them anew; a test compares them word for word.
"""

import json
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from hf_cap.cards import model_facts, render_card
from hf_cap.hub import PriorCard, configurations, prior_card_facts
from hf_cap.utils import bundled

RECORDS = Path(__file__).with_name("example_records")


def model_card() -> str:
    """Of a MiniLM trained on the library desk's texts."""
    record = _read("model.json")
    return render_card(
        model_facts(
            record["run"],
            name="library-desk-minilm",
            repo_id="your-name/library-desk-minilm",
            evaluations=record["evaluations"],
            records=record["examples"],
            license="apache-2.0",
            language="en",
        )
    )


def prior_card() -> str:
    """Of priors of some of the library desk's texts."""
    record = _read("priors.json")
    scores = List(Value("float64"))
    features = Features(
        {
            "text": Value("string"),
            "label": ClassLabel(names=record["labels"]),
            "words": List(Value("string")),
            **{name: scores for name in record["rows"][0] if name.startswith("prior")},
            "provenance": Value("string"),
        }
    )
    data = DatasetDict({"train": Dataset.from_list(record["rows"], features=features)})
    options = PriorCard(
        repo_id="your-name/library-desk-priors", license="apache-2.0", language="en", examples=2
    )
    return render_card(prior_card_facts(configurations(data), options, record.get("audit")))


CARDS = {"model.md": model_card, "priors.md": prior_card}


def _read(name: str) -> Any:
    return json.loads((RECORDS / name).read_text(encoding="utf-8"))


def main() -> None:
    """Write every example."""
    for name, draw in CARDS.items():
        (bundled("model_cards") / "examples" / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
