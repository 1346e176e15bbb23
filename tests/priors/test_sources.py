"""What holds for every source, sources of a user's own, and what their documentation shows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from hf_cap.errors import ConfigError, DataError
from hf_cap.lm.local import LocalLanguageModel
from hf_cap.priors import base
from hf_cap.priors.base import SOURCES, Row, Source, SourceResult, register_source, source_class
from hf_cap.priors.classifier import ClassifierSource
from hf_cap.priors.language_model import LanguageModelSource
from tests.priors.conftest import labelled, needs_shap
from tests.tiny import byte_tokenizer, llama

# shap 0.51 itself calls Colormap.set_bad and its like, which matplotlib 3.11 is going to deprecate
pytestmark = pytest.mark.filterwarnings("ignore:The set_.* function:PendingDeprecationWarning")

DOCS = Path(__file__).parents[2] / "docs"


@dataclass(frozen=True, kw_only=True)
class Starts(Source):
    """Scores a word by where it starts."""

    name: ClassVar[str] = "starts"

    def score_words(self, rows: Sequence[Row]) -> SourceResult:
        return SourceResult([[span.start for span in row.spans] for row in rows])


@pytest.fixture(autouse=True)
def _table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "SOURCES", dict(SOURCES))


def test_each_source_has_the_name_that_it_is_listed_and_described_under() -> None:
    assert [source_class(name).name for name in SOURCES] == list(SOURCES)
    described = re.findall(r"^\| `(\w+)` \|", (DOCS / "concepts/priors.md").read_text(), re.MULTILINE)
    assert set(SOURCES) <= set(described)


TRAIN = labelled(
    ["please renew my  book", "card lost!", "pay", "i need to pay the fine, now", " LOST\ttwice "],
    [0, 1, 2, 2, 1],
)


def source(name: str, reference: str, **options: Any) -> Source:
    """A source for the label space of the training texts, with a tiny model where it needs one."""
    cls = source_class(name)
    if issubclass(cls, LanguageModelSource):
        options["model"] = LocalLanguageModel(llama(), byte_tokenizer())
    if issubclass(cls, ClassifierSource):
        options["classifier"] = reference
    return cls.from_dataset(TRAIN, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cap", {"n": 20, "sign": "signed", "keep_label_scores": True}),
        ("cap", {"n": 9, "score": "contrast"}),
        ("channel", {"sign": "signed", "keep_label_scores": True}),
        ("llm_gradient", {"sign": "signed"}),
        ("reagent", {"sign": "signed", "n": 12, "probes": 2}),
        ("keywords", {}),
        ("integrated_gradients", {}),
        ("lime", {"samples": 40}),
        ("occlusion", {}),
        pytest.param("shap", {}, marks=needs_shap),
    ],
)
def test_a_row_depends_on_neither_its_batch_nor_the_order(
    reference: str, name: str, options: dict[str, Any]
) -> None:
    made = source(name, reference, **options)
    columns = [f"prior_{name}", *(f"{name}_{what}" for what in ("std", "label_scores", "rank"))]
    together, turned = made(TRAIN[:]), made(TRAIN.select(range(5)[::-1])[:])
    assert list(map(len, together[columns[0]])) == list(map(len, together["words"]))
    for row in range(5):
        alone = made(TRAIN.select([row])[:])
        for column in set(columns) & set(together):
            assert alone[column][0] == pytest.approx(together[column][row], abs=1e-4)
            assert turned[column][4 - row] == pytest.approx(together[column][row], abs=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cap", {"n": 0}), ("cap", {"penalty": 0.0}), ("cap", {"rivals": 0}), ("cap", {"score": "x"}),
        ("cap", {"masking": "x"}), ("cap", {"calibration_texts": -1}), ("cap", {"offsets": (0.0,)}),
        ("cap", {"demonstrations": -1}), ("cap", {"sign": "x"}), ("cap", {"word_pattern": "("}),
        ("channel", {"temperature": 0.0}), ("channel", {"evidence": "x"}),
        ("llm_gradient", {"keep_label_scores": True}), ("reagent", {"keep_label_scores": True}),
        ("reagent", {"n": 1}), ("reagent", {"replaced": 1.0}), ("reagent", {"kept": 0.0}),
        ("reagent", {"probes": 0}), ("reagent", {"tolerance": float("inf")}),
        ("keywords", {"statistic": "x"}),
        ("rationale", {"rationale_unit": "x"}), ("integrated_gradients", {"steps": 0}),
        ("lime", {"samples": 1}), ("shap", {"evaluations": 1}),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_work_is_refused_by_name(
    reference: str, name: str, options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        source(name, reference, **options)


def test_a_registered_source_is_found_by_its_name() -> None:
    assert register_source(Starts) is Starts
    assert source_class("starts") is register_source(Starts)
    made = Starts(labels=("x",))({"text": ["a bc"], "label": [0]})
    assert made["prior_starts"] == [[0.0, 2.0]]
    with pytest.raises(DataError, match=r"got one row: `dataset.map\(source, batched=True\)`"):
        Starts(labels=("x",))({"text": "a bc", "label": "x"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("limes", r"no prior source 'limes'; there are \['cap', 'channel'"),
        ("nowhere_at_all:Prior", "'nowhere_at_all:Prior' cannot be loaded"),
        ("hf_cap.errors:Nothing", "cannot be loaded as `module:name`"),
        ("hf_cap.errors:ConfigError", "does not derive from `Source`"),
    ],
)
def test_an_unknown_source_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        source_class(name)


def test_the_name_of_a_source_of_hf_cap_cannot_be_taken() -> None:
    with pytest.raises(ConfigError, match="has a source 'cap' already"):
        register_source(type("Mine", (Starts,), {"name": "cap"}))
    with pytest.raises(ConfigError, match="derives from `Source`"):
        register_source(int)  # type: ignore[type-var]


def python_blocks(name: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_of_a_new_source_runs_as_it_stands() -> None:
    definition, use = python_blocks("howto/add_a_source.md")
    train = labelled(["renew my book", "card"], [0, 1])
    namespace: dict[str, Any] = {"train": train, "__name__": __name__}
    exec(definition + use, namespace)  # the documentation's own code
    train = namespace["train"]
    assert train["prior_early"][0] == pytest.approx([1, 4 / 9, 1 / 9])
    assert train["early_words"][:] == [3, 1]
    assert '"steepness": 2.0' in train["provenance"][0]


def test_the_first_example_of_the_overview_runs(
    reference: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    example, *_ = python_blocks("concepts/priors.md")
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    Path("runs/plain").symlink_to(reference)
    namespace: dict[str, Any] = {"train": labelled(["renew my book", "card lost"], [0, 1])}
    exec(example, namespace)
    assert [len(prior) for prior in namespace["train"]["prior"]] == [3, 2]
