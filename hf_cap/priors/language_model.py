"""What the sources that ask a language model have in common: scorer, demonstrations and facts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self, TypeVar

from datasets import Dataset

from ..errors import ConfigError, ModelError
from ..files import folder_stamp
from ..schema import digest
from ..scoring.loading import resolve_dtype
from ..scoring.protocol import Scorer
from ..scoring.settings import ScorerSettings, current_runtime
from .asking import Asker, open_asker
from .demonstrations import NO_DEMONSTRATIONS, DemonstrationSets, choose_demonstrations
from .prompts import load_template
from .rows import label_space, read_rows
from .settings import DEFAULT_TEMPLATE, PromptSettings
from .source_settings import RowOptions
from .word_source import LEARNT, WordSource

T = TypeVar("T")

_DEFAULT_SCORER = ScorerSettings()


@dataclass(frozen=True, kw_only=True)
class LanguageModelSource(WordSource, PromptSettings):
    """A source that asks a language model about the rows.

    Attributes:
        scorer: Which language model to open, or an opened one. The number format `auto` becomes that of
            the device at hand when the source is made, since it changes scores.
        demonstration_sets: Two disjoint sets of (text, label name), or one empty set; `from_dataset`
            chooses them.
        stamp: State of what the settings only name, when the source was made: the files of a language
            model in a folder, and the wording of a template of one's own. So a model that was adapted
            anew in the same folder, or a prompt that was edited, is asked anew, and not read from the
            cache of `Dataset.map` or the finished work of an interrupted extraction.
    """

    wording: ClassVar[str]
    """The prior whose prompt template is the default: `cap` asks for the label, `channel` for the text."""

    scorer: ScorerSettings | Scorer = _DEFAULT_SCORER
    demonstration_sets: DemonstrationSets = field(default=NO_DEMONSTRATIONS, metadata=LEARNT)
    stamp: str = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.scorer, ScorerSettings):
            object.__setattr__(self, "scorer", resolve_dtype(self.scorer, current_runtime()))
        object.__setattr__(self, "stamp", self._stamp())
        super().__post_init__()

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset,
        *,
        model: str | None = None,
        scorer: ScorerSettings | Scorer | None = None,
        **options: Any,
    ) -> Self:
        """A source whose label space and demonstrations come from a training split.

        Args:
            dataset: Training examples, with a `ClassLabel` column.
            model: Language model: Hub id, folder or embedded name.
            scorer: Instead of `model`: all its settings, or an opened one.
            options: The settings of the source, and those of `PromptSettings` and `RowOptions`.

        Raises:
            ConfigError: both `model` and `scorer` are given, or an option cannot work.
            DataError: a column is missing, or a row has no text or no label of the label space.
        """
        if model is not None and scorer is not None:
            raise ConfigError(
                "Give `model` or `scorer`, not both; `ScorerSettings(model=...)` holds both."
            )
        settings, where = _given(PromptSettings, options), _given(RowOptions, options)
        labels = label_space(dataset, where.label_column)
        rows = read_rows(dataset[:], labels, where)
        sets = choose_demonstrations(
            [row.text for row in rows],
            [labels[row.label] for row in rows],
            per_label=settings.demonstrations,
            seed=settings.seed,
        )
        named = ScorerSettings(model=model) if model else _DEFAULT_SCORER
        return cls(labels=labels, scorer=scorer or named, demonstration_sets=sets, **options)

    def open(self) -> Asker:
        """The language model, opened, with the prompts of this source.

        Raises:
            ConfigError: the template cannot be used.
            DataError: two labels are written alike.
            ModelError: the model or its chat template cannot serve, or the model or the prompt template
                was written anew.
        """
        if self._stamp() != self.stamp:
            raise ModelError(
                f"The language model {self.scorer!r} or the prompt template {self.template!r} has changed "
                "since the source was made. Make the source anew."
            )
        return open_asker(self.wording, self, self.labels, self.scorer, self.demonstration_sets)

    def _stamp(self) -> str:
        model = folder_stamp(self.scorer.model) if isinstance(self.scorer, ScorerSettings) else ""
        if self.template == DEFAULT_TEMPLATE:
            return model
        return model + load_template(self.template, self.wording).digest

    def model_facts(self, asker: Asker) -> dict[str, Any]:
        """Facts of the opened language model and its prompts, for the provenance."""
        known = self.scorer if isinstance(self.scorer, ScorerSettings) else None
        return {
            "model": known.model if known else asker.scorer.identity,
            "revision": known.revision if known else None,
            "scorer": asker.scorer.identity,
            "template_digest": load_template(self.template, self.wording).digest,
            "prompt_digest": digest(*(prompt.prefix + prompt.after for prompt in asker.prompts)),
        }


def _given(settings: type[T], options: Mapping[str, Any]) -> T:
    """Settings of a class from those of `options` that are its fields."""
    names = [item.name for item in fields(settings)]  # type: ignore[arg-type]
    return settings(**{name: options[name] for name in names if name in options})
