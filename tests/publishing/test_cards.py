"""Cards: facts in, Markdown out; nothing private in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, List, Value
from huggingface_hub import RepoCard
from markdown_it import MarkdownIt

from hf_cap import cards
from hf_cap.errors import ConfigError
from hf_cap.laat.elicitation import FeatureScores, score_facts
from hf_cap.laat.models import TabularConfig, tabular_facts
from hf_cap.laat.settings import TabularModelOptions
from hf_cap.laat.table import Preprocessor, infer_schema
from hf_cap.priors.card import configurations, prior_dataset_facts
from hf_cap.utils import bundled
from hf_cap.words import heat_map

HOSTILE = "a|b <script>alert(1)</script> *x* [y](http://z) `c` $d$ ~~e~~ &lt; # f\n- g"
EXAMPLES = bundled("model_cards") / "examples"
RECORDS = Path(__file__).with_name("example_records")


def as_html(markdown: str) -> str:
    """What a reader of the Hub sees; raw HTML is allowed, as it is there."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return str(reader.render(markdown))


def body(card: str) -> str:
    return card.split("---\n", 2)[2]


# --- Whole cards, compared with those that ship; `python -m tests.publishing.test_cards` writes these anew.


def record_of(name: str) -> Any:
    return json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))


def named(name: str) -> dict[str, Any]:
    return {"name": name, "repo_id": f"your-name/{name}", "license": "apache-2.0"}


def model_card() -> dict[str, Any]:
    record = record_of("model")
    known = {"evaluations": record["evaluations"], "records": record["examples"], "language": "en"}
    return cards.model_facts(record["run"], **named("library-desk-minilm"), **known)


def prior_card() -> dict[str, Any]:
    record = record_of("priors")
    names = [name for name in record["rows"][0] if name.startswith("prior")]
    features = {
        "text": Value("string"),
        "label": ClassLabel(names=record["labels"]),
        "words": List(Value("string")),
        **dict.fromkeys(names, List(Value("float64"))),
        "provenance": Value("string"),
    }
    data = Dataset.from_list(record["rows"], features=Features(features))
    name = "your-name/library-desk-priors"
    options = cards.PushOptions(repo_id=name, license="apache-2.0", language="en", examples=2)
    audit = {"keywords": {"mean certainty": 0.75}, "texts": 6, "note": "not a number"}
    return prior_dataset_facts(configurations({"train": data}), options, audit)


def tabular_card() -> dict[str, Any]:
    frame = pd.DataFrame({"x0": [20.0, 60.0], "x1": [80.0, 120.0], "y": ["c0", "c1"]})
    preprocessor = Preprocessor.fit(frame, infer_schema(frame, target="y"))
    config = TabularConfig.of(preprocessor, TabularModelOptions())
    record = record_of("tabular")
    known = {"config": config, "evaluations": record["evaluations"]}
    return tabular_facts(record["run"], **named("desk-table"), **known)


def score_card() -> dict[str, Any]:
    record = record_of("tabular")
    scores = FeatureScores.of(record["scores"], **record["run"]["scores"])
    return score_facts(scores, *named("desk-scores").values())


CARDS: dict[str, Callable[[], dict[str, Any]]] = {
    "model.md": model_card, "priors.md": prior_card, "scores.md": score_card, "tabular.md": tabular_card,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(file.name for file in EXAMPLES.parent.glob("*.jinja")))
def test_a_whole_card_is_the_one_that_ships(name: str) -> None:
    name = name.removesuffix(".jinja")
    card = cards.render_card(CARDS[name]())
    assert card == (EXAMPLES / name).read_text(encoding="utf-8")
    assert vars(RepoCard(card).data)["license"] == "apache-2.0"
    html = as_html(body(card))
    assert html.count("<h1>") == 1
    assert html.count("<table>") == html.count("</table>") >= 3
    assert "|---" not in html
    assert "```" not in html
    assert "/home/alice" not in card


def test_the_model_without_alignment_is_an_entry_of_its_own() -> None:
    own, other = {"test": {"texts": 9, "accuracy": 0.75}}, {"test": {"texts": 9, "accuracy": 0.5}}
    text = [{"text": "lost it", "words": ["lost", "it"], "label": "a", "prediction": "a"}]
    unseen = {**other, "valid": {"accuracy": 0.1}}  # the model itself was not measured on it
    card = cards.render_card(
        cards.model_facts({}, name="desk", evaluations=own, baseline=unseen, records=text)
    )
    data: Any = RepoCard(card).data
    index = yaml.safe_load(card.split("---")[1])["model-index"]
    values = {e["name"]: [m["value"] for r in e["results"] for m in r["metrics"]] for e in index}
    assert values == {"desk": [0.75], "desk, without alignment": [0.5]}
    assert data.to_dict()["widget"] == [{"text": "lost it"}]
    assert "| test, without alignment | 9 | 0.5 |" in card
    assert "author = {Zhang, Zhuoran and Zhang, Feng" in card


# --- Facts.


def test_what_is_not_known_is_unknown() -> None:
    card = cards.render_card(cards.model_facts({}, name="desk"))
    for line in ("| Base model | unknown |", "| Licence | unknown |", "Results: unknown.",
                 "Training log: unknown.", "without alignment to a prior"):  # fmt: skip
        assert line in card
    assert "None" not in card


def test_a_data_set_on_the_hub_and_an_adapter_are_named() -> None:
    metadata = cards.model_facts({"data": {"dataset": "mteb/banking77"}}, name="x", adapter=True)["metadata"]
    assert (metadata.datasets, metadata.library_name) == (["mteb/banking77"], "peft")


def test_confidence_is_a_table_of_its_own_with_directions() -> None:
    numbers = {
        "texts": 9, "accuracy": 0.5, "nll": 1.25, "ece": 0.0625, "set_size": None, "temperature": 2.5,
    }  # fmt: skip
    stored = {"temperature": 2.5, "coverage": 0.9, "threshold": 0.2, "texts": 200}
    facts = cards.model_facts({"calibration": stored}, name="desk", evaluations={"test": numbers})
    card = cards.render_card(facts)
    for line in ("| Set | Texts | Accuracy |", "| test | 9 | 0.5 |",
                 "| Set | test |\n|---|---:|\n| NLL in nats (lower is better) | 1.25 |\n"
                 "| Calibration error (lower is better) | 0.0625 |\n| Temperature (1: not",
                 "calibrated on 200 texts (temperature\n2.5)",
                 "probability of 0.9 on new texts", "attributions, labels, coverage"):  # fmt: skip
        assert line in card
    (entry,) = facts["metadata"].to_dict()["model-index"]
    measured = {metric["type"] for one in entry["results"] for metric in one["metrics"]}
    assert measured == {"accuracy", "nll", "ece"}
    card = cards.render_card(cards.model_facts({}, name="desk", evaluations={"test": numbers}))
    assert "They were not calibrated." in card
    assert "coverage" not in card


def test_hostile_values_are_shown_and_not_obeyed() -> None:
    record = {
        "settings": {HOSTILE: HOSTILE},
        "alignment": {"alignment_weight": 1, HOSTILE: HOSTILE},
        "data": {"dataset": HOSTILE, "labels": [HOSTILE], "provenance": [{HOSTILE: {"a": HOSTILE}}]},
        "versions": {HOSTILE: HOSTILE},
        "command": "hf-cap train ```\n# heading",
    }  # fmt: skip
    evaluated = {"prediction": HOSTILE, "label": HOSTILE, "words": ["```", "</code>", "x"]}
    facts = cards.model_facts(
        record,
        name=HOSTILE,
        evaluations={HOSTILE: {"texts": 1, "accuracy": 1.0}},
        records=[{**evaluated, "attributions": [1.0, 0.0, -1.0]}],
    )
    html = as_html(body(cards.render_card(facts)))
    for obeyed in ("<script>", 'href="http://z"', "<em>x</em>", "<s>e</s>", "<h1>heading"):
        assert obeyed not in html
    assert html.count("<h1>") == 1
    assert "a|b &lt;script&gt;" in html


@pytest.mark.parametrize("value", [HOSTILE, "a\\|b", "_x_", "trailing\\"])
def test_escaped_text_reads_as_it_was(value: str) -> None:
    shown = MarkdownIt("commonmark", {"html": True}).render(f"x {cards.escape(value)} y")
    plain = " ".join(value.split())
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        plain = plain.replace(character, entity)
    assert shown == f"<p>x {plain} y</p>\n"


@pytest.mark.parametrize("value", ["a`b", "``", "a|b", "`x`"])
def test_code_reads_as_it_was_and_cannot_be_broken_out_of(value: str) -> None:
    html = as_html(str(cards.table([["h"], [cards.code(value)]])))
    assert f"<td><code>{value}</code></td>" in html
    html = as_html(str(cards.block("```\n# heading\n````")))
    assert "<h1>" not in html
    assert html.count("<pre>") == 1


def test_numbers_are_written_short_and_on_the_right() -> None:
    shown = str(cards.table([["name", "x"], ["a", 0.123456], ["b", None]]))
    assert shown == "| name | x |\n|---|---:|\n| a | 0.1235 |\n| b | unknown |"
    assert [cards.escape(one) for one in (True, [], ["a", 1])] == ["yes", "none", "a, 1"]
    assert [cards.escape("a\x1b[0m"), cards.code("a\x1b[0m")] == ["a\ufffd\\[0m", "`a\ufffd[0m`"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("---\n{{ metadata }}\n---\n{{ licence }}", "'licence' is undefined.*license"),
        ("---\n{{ metadata }}\n---\n{% if %}", "Expected an expression"),
        ("no front matter {{ name }}", "no front matter"),
        ("---\n- a\n---\n", "should be a dict"),
        ("---\na: [\n---\n", "expected the node content"),
        ("---\n{{ metadata }}\n---\n{{ name.__class__.__mro__ }}", "'__class__'.*is unsafe"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "'__init__'.*is unsafe"),
        ("{{ range(10 ** 9) | list }}", "Range too big"),
        ("{{ lipsum(n=10 ** 7) }}", "'lipsum' is undefined"),
        ("{{ 1 + name }}", "unsupported operand"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% include '/etc/passwd' %}", "no loader"),
        ("---\n{{ metadata }}\n---\n{{ 'x' * 10 ** 8 }}", "more than 10000000 characters"),
        ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "recursion"),
        (None, "No such file"),
    ],
)
def test_a_template_that_fails_is_an_error(tmp_path: Path, template: str | None, message: str) -> None:
    path = tmp_path / "card.md"
    if template is not None:
        path.write_text(template)
    with pytest.raises(ConfigError, match=message):
        cards.render_card(cards.model_facts({}, name="desk"), path)


# --- What may leave the machine.


@pytest.mark.parametrize(
    ("name", "public", "shown"),
    [
        *((name, name, name) for name in ("FacebookAI/roberta-base", "gpt2")),
        ("embedded/minilm-l6", *["sentence-transformers/all-MiniLM-L6-v2"] * 2),
        ("embedded/library-desk", None, "library-desk"),
        *((name, None, "model") for name in ("/home/alice/model", "~/model", "./model", "C:\\model")),
        ("a/b/c", None, "c"),
        ("runs/here", None, "here"),  # a folder that looks like an id
        *((name, None, None) for name in ("", None)),
    ],
)
def test_only_hub_ids_are_public_and_a_folder_keeps_its_last_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any, public: Any, shown: Any
) -> None:
    (tmp_path / "runs" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert (cards.public_id(name), cards.public_name(name)) == (public, shown)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("--dataset /home/alice/desk --n 3", "--dataset desk --n 3"),
        ("--dir=~/runs/x", "--dir=x"),
        ("'/home/alice/my' b", "'my' b"),
        ("C:\\runs\\x", "x"),
        ("a/b and/or 1/2", "a/b and/or 1/2"),
        ("--base_url http://gpu7.corp:8000/v1 --n 3", "--base_url *** --n 3"),
        ("'https://user:word@gpu7/v1'", "'***'"),
        ("http://u:pw@gpu7:8000/v1|m|served|echo|text", "***|m|served|echo|text"),
        (r"\S+|[^\w\s]", r"\S+|[^\w\s]"),
        ("--token hf_" + "a" * 34, "--token ***"),
    ],
)
def test_paths_are_cut_and_servers_and_secrets_hidden(text: str, public: str) -> None:
    assert cards.public_text(text) == public


def test_private_settings_are_left_out() -> None:
    kept = {"learning_rate": 1e-4, "max_length": 64, "template": "a1", "prompt_tokens": 3}
    private = ("output_dir", "hub_token", "hub_model_id", "base_url", "api_key", "push_to_hub")
    assert cards.public_settings({**kept, **dict.fromkeys(private, "x")}) == kept


# --- Word scores in plain characters.


WHOLE = (
    ("\U0001f468\u200d\U0001f469\u200d\U0001f467", 2),
    ("می\u200cخواهم", 7),
    ("क्\u200dष", 1),
    ("កា\u200bត", 2),
    ("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", 2),
    ("\U0001fae8", 2),
)


@pytest.mark.parametrize(
    ("words", "scores", "drawn"),
    [
        (["renew", "my", "card"], [2.0, 0.0, -1.0], "renew  my  card\n█      ·   -▅"),
        (["a", "b"], [0.0, 0.0], "a  b\n·  ·"),
        ([], [], "\n"),
        (["a", "b"], None, "a b"),
        (["本", "a"], [1.0, 1.0], "本  a\n█   █"),  # a wide character takes two columns
        *((["a" + one + "b"], None, "a\ufffdb") for one in "\n\u202e\u2028\x1b\u2067\u200f\U000e0061"),
        # a family, Persian, Hindi, Khmer, the flag of England and an emoji of Unicode 15 stay whole
        *(([word, "a"], [1.0, 1.0], f"{word}  a\n█{' ' * columns} █") for word, columns in WHOLE),
    ],
    ids=ascii,
)
def test_bars_stand_below_their_words(words: list[str], scores: Any, drawn: str) -> None:
    assert heat_map(words, scores) == drawn


def test_only_ratios_count_and_long_texts_continue_below() -> None:
    scores = [0.5, -0.25, 0.125]
    assert heat_map(["a", "b", "c"], scores) == heat_map(["a", "b", "c"], [1e6 * s for s in scores])
    lines = heat_map(["word"] * 5, [1.0] * 5, width=14).splitlines()
    assert lines == ["word  word", "█     █", ""] * 2 + ["word", "█"]


if __name__ == "__main__":
    for file, facts_of in CARDS.items():
        (EXAMPLES / file).write_text(cards.render_card(facts_of()), encoding="utf-8")
