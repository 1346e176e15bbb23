"""The finished cards that ship are what the code draws, and read well."""

from pathlib import Path

import pytest
from huggingface_hub import RepoCard

from hf_cap.utils import bundled
from tests.publishing.examples import CARDS
from tests.publishing.test_cards import as_html, body

EXAMPLES = bundled("model_cards") / "examples"


def test_every_example_is_drawn_by_a_test() -> None:
    assert {file.name for file in EXAMPLES.iterdir()} == set(CARDS)


@pytest.mark.parametrize("name", sorted(CARDS))
def test_an_example_is_what_the_code_draws(name: str) -> None:
    expected = (EXAMPLES / name).read_text(encoding="utf-8")
    assert CARDS[name]() == expected, "python -m tests.publishing.examples writes the examples anew"


@pytest.mark.parametrize("name", sorted(CARDS))
def test_an_example_has_metadata_and_becomes_html(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    assert vars(RepoCard(text).data)["license"] == "apache-2.0"
    html = as_html(body(text))
    assert html.count("<h1>") == 1
    assert html.count("<table>") == html.count("</table>") >= 4
    assert "|---" not in html
    assert "```" not in html


def test_the_templates_ship_beside_the_examples() -> None:
    names = {file.name for file in Path(bundled("model_cards")).glob("*.jinja")}
    assert names == {f"{kind}.md.jinja" for kind in ("model", "priors", "scores", "student")}
