"""Cards: facts in, Markdown out."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt

from hf_cap.cards import (
    ConfigurationFacts,
    EvaluationFacts,
    ExampleFacts,
    ModelCardFacts,
    PriorCardFacts,
    PriorFacts,
    block,
    code,
    escape,
    model_facts,
    render_card,
    spread,
    table,
)
from hf_cap.errors import ConfigError
from tests.publishing.runs import RECORD

HOSTILE = "a|b <script>alert(1)</script> *x* [y](http://z) `c` $d$ ~~e~~ &lt; # f\n- g"


def as_html(markdown: str) -> str:
    """What a reader of the Hub sees; raw HTML is allowed, as it is there."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return str(reader.render(markdown))


def body(card: str) -> str:
    return card.split("---\n", 2)[2]


def test_nothing_known_prints_as_unknown() -> None:
    card = render_card(ModelCardFacts(name="desk"))
    assert "| Base model | unknown |" in card
    assert "| Licence | unknown |" in card
    assert "Results: unknown." in card
    assert "Course of the loss: unknown." in card
    assert "None" not in card
    assert "without alignment to a prior" in card


def test_a_fact_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(TypeError, match="licence"):
        ModelCardFacts(name="desk", licence="mit")  # type: ignore[call-arg]


def test_a_run_is_told_without_where_it_lay() -> None:
    card = render_card(
        model_facts(
            RECORD,
            name="desk",
            repo_id="alice/desk",
            evaluations={
                "test": {"accuracy": 0.76543, "macro_f1": 0.5, "texts": 168, "records": []}
            },
        )
    )
    assert "/home/alice" not in card
    assert "~/" not in card
    assert "hf-cap train --dataset library-desk --output_dir desk" in card
    assert "| test | 168 | 0.7654 | 0.5 |" in card
    assert "| 2 | 1 | 1 | 0.9 | 0.8 |" in card
    assert "HuggingFaceTB/SmolLM2-135M-Instruct" in card
    assert "`learning_rate` | `0.0001`" in card
    assert "output_dir`" not in card


def test_the_metadata_is_what_the_hub_reads() -> None:
    facts = ModelCardFacts(
        name="desk",
        base_model="FacebookAI/roberta-base",
        dataset="mteb/banking77",
        dataset_on_hub=True,
        license="mit",
        language="en",
        evaluations=(EvaluationFacts(name="test", accuracy=0.5, macro_f1=0.25, soft_nc=None),),
    )
    data: Any = ModelCard(render_card(facts)).data
    assert data.base_model == "FacebookAI/roberta-base"
    assert data.datasets == ["mteb/banking77"]
    assert data.pipeline_tag == "text-classification"
    assert data.license == "mit"
    assert data.eval_results is not None
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("accuracy", 0.5),
        ("f1", 0.25),
    ]
    assert {r.dataset_split for r in data.eval_results} == {"test"}


def test_local_data_is_no_data_set_of_the_hub() -> None:
    facts = model_facts(RECORD, name="desk")
    assert facts.dataset == "library-desk"
    assert facts.metadata().datasets is None


def test_hostile_values_are_shown_and_not_obeyed() -> None:
    facts = ModelCardFacts(
        name=HOSTILE,
        dataset=HOSTILE,
        labels=(HOSTILE,),
        alignment={"alignment_weight": 1, HOSTILE: HOSTILE},
        settings={HOSTILE: HOSTILE},
        evaluations=(EvaluationFacts(name=HOSTILE, texts=1, accuracy=1.0),),
        examples=(
            ExampleFacts(
                label=HOSTILE, gold=HOSTILE, words=("```", "</code>", "x"), scores=(1.0, 0.0, -1.0)
            ),
        ),
        priors=(PriorFacts(source=HOSTILE, model=HOSTILE, settings={"a": HOSTILE}),),
        versions={HOSTILE: HOSTILE},
        command="hf-cap train ```\n# heading",
    )
    html = as_html(body(render_card(facts)))
    assert "<script>" not in html
    assert 'href="http://z"' not in html
    assert "<em>x</em>" not in html
    assert "<s>e</s>" not in html
    assert "<h1>heading" not in html
    assert html.count("<h1>") == 1
    assert "<td>a|b &lt;script&gt;" in html


@pytest.mark.parametrize("value", [HOSTILE, "a\\|b", "_x_", "trailing\\"])
def test_escaped_text_reads_as_it_was(value: str) -> None:
    shown = MarkdownIt("commonmark", {"html": True}).render(f"x {escape(value)} y")
    plain = " ".join(value.split())
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;")):
        plain = plain.replace(character, entity)
    assert shown == f"<p>x {plain} y</p>\n"


@pytest.mark.parametrize("value", ["a`b", "``", "a|b", "`x`"])
def test_a_code_span_holds_any_value(value: str) -> None:
    html = as_html(f"| h |\n|---|\n| {code(value)} |")
    assert f"<code>{value}</code>" in html


def test_a_code_block_cannot_be_left() -> None:
    html = as_html(block("a\n```\n# b\n````\nc"))
    assert html == '<pre><code class="language-text">a\n```\n# b\n````\nc\n</code></pre>\n'


def test_values_are_printed_by_their_kind() -> None:
    assert escape(None) == "unknown"
    assert escape(0.123456) == "0.1235"
    assert escape(True) == "yes"
    assert escape(12345) == "12345"
    assert escape(["a", None]) == "a, unknown"
    assert escape([]) == "none"
    assert code(None) == "unknown"


def test_numbers_stand_on_the_right() -> None:
    drawn = table([["Set", "Texts"], ["test", 3]])
    assert drawn == "| Set | Texts |\n|---|---:|\n| test | 3 |"


def test_a_long_log_is_thinned_evenly() -> None:
    rows = list(range(100))
    assert spread(rows, 4) == [0, 33, 66, 99]
    assert spread(rows[:4], 4) == [0, 1, 2, 3]


PRIORS = PriorCardFacts(
    name="priors",
    repo_id="alice/priors",
    labels=("renew", "cancel"),
    splits={"train": 1500, "test": 500},
    configurations=(
        ConfigurationFacts(
            name="hybrid",
            default=True,
            prior=PriorFacts(source="prior", settings={"how": "mean"}),
            columns={"text": "string"},
            with_prior=1999,
            rows=2000,
        ),
    ),
    examples={"hybrid": (ExampleFacts(label="renew", words=("renew", "it"), scores=(1.0, 0.0)),)},
)


def test_a_prior_card_tells_how_it_was_made() -> None:
    card = render_card(PRIORS)
    data: Any = DatasetCard(card).data
    assert data.size_categories == "1K<n<10K"
    assert data.task_categories == ["text-classification"]
    assert "| hybrid | 2000 | 1999 | unknown |" in card
    assert "renew  it\n█      ·" in card
    assert 'load_prior_dataset("alice/priors")' in card
    assert "Audit figures: unknown." in card
    assert "Command: unknown." in card


@pytest.mark.parametrize(
    ("rows", "size"),
    [(999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (10**6, "n>1M")],
)
def test_the_size_category_is_that_of_all_splits(rows: int, size: str) -> None:
    facts = dataclasses.replace(PRIORS, splits={"train": rows})
    assert facts.metadata().size_categories == size


def test_a_template_of_ones_own_is_used(tmp_path: Path) -> None:
    template = tmp_path / "card.md"
    template.write_text("---\n{{ metadata }}\n---\n{{ name }}, {{ seed }}, {{ facts.aligned }}\n")
    card = render_card(ModelCardFacts(name="a_b", seed=None), template)
    assert body(card) == "a\\_b, unknown, no\n"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("---\n{{ metadata }}\n---\n{{ licence }}", "'licence' is undefined.*license"),
        ("---\n{{ metadata }}\n---\n{% if %}", "Expected an expression"),
        ("no front matter {{ name }}", "no front matter"),
        ("---\n- a\n---\n", "bad front matter"),
    ],
)
def test_a_template_that_fails_says_how(tmp_path: Path, template: str, message: str) -> None:
    path = tmp_path / "card.md"
    path.write_text(template)
    with pytest.raises(ConfigError, match=message):
        render_card(ModelCardFacts(name="desk"), path)


def test_a_template_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Cannot read"):
        render_card(ModelCardFacts(name="desk"), tmp_path / "card.md")
