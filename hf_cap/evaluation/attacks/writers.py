"""The two makers: attacked texts by fixed rules, or by a chat model whose replies are checked."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hf_cap.evaluation.attacks import rewriting
from hf_cap.evaluation.attacks.rules import (
    Outcome,
    Plan,
    add_mention,
    load_lexicon,
    replace_keywords,
)
from hf_cap.evaluation.attacks.settings import AttackSettings, Kind
from hf_cap.lm.base import LanguageModel
from hf_cap.utils import generator


@dataclass(frozen=True)
class RuleWriter:
    """Writes by rule; what it writes depends on the seed and the text alone.

    Attributes:
        settings: What is done.
        keywords: Label to its keywords; a synonym is never one of them.
    """

    settings: AttackSettings
    keywords: Mapping[str, Sequence[str]]

    def __call__(self, plans: Sequence[Plan]) -> list[Outcome]:
        """One outcome a plan."""
        return [WRITERS[self.settings.kind](self, plan) for plan in plans]

    def _add(self, plan: Plan) -> Outcome:
        rng = generator(self.settings.seed, "write", plan.text)
        return Outcome(add_mention(plan.text, plan.keywords[0], rng), plan.keywords, "rules")

    def _replace(self, plan: Plan) -> Outcome:
        rng = generator(self.settings.seed, "write", plan.text)
        lexicon = load_lexicon(self.settings.synonyms)
        text, replaced = replace_keywords(
            plan.text, self.keywords[plan.label], lexicon, rng, self.settings.word_pattern
        )
        if not replaced:
            return Outcome(plan.text, plan.keywords, note="no synonym")
        return Outcome(text, tuple(replaced), "rules")


WRITERS: Mapping[Kind, Callable[[RuleWriter, Plan], Outcome]] = {
    "keyword_addition": RuleWriter._add,
    "keyword_replacement": RuleWriter._replace,
}
"""How the rules carry out each kind of attack."""


@dataclass(frozen=True)
class ChatWriter:
    """Has a chat model rewrite texts, checks the replies, and lets a second call judge their labels.

    Attributes:
        settings: What is done.
        chat: The model.
    """

    settings: AttackSettings
    chat: LanguageModel

    def __call__(self, plans: Sequence[Plan]) -> list[Outcome]:
        """One outcome a plan; the text of a plan whose reply fails a check stays as it is."""
        replies = self._answers([rewriting.request(self.settings.kind, plan) for plan in plans])
        texts = [rewriting.clean_reply(reply) for reply in replies]
        faults = [self._fault(plan, text) for plan, text in zip(plans, texts, strict=True)]
        passing = [row for row, fault in enumerate(faults) if fault is None]
        questions = [rewriting.question(plans[row].label, texts[row]) for row in passing]
        verdicts = self._answers(questions)
        for row, verdict in zip(passing, verdicts, strict=True):
            faults[row] = None if rewriting.agrees(verdict) else "label not confirmed"
        return [
            Outcome(plan.text, plan.keywords, note=fault)
            if fault
            else Outcome(text, plan.keywords, "chat")
            for plan, text, fault in zip(plans, texts, faults, strict=True)
        ]

    def _answers(self, prompts: Sequence[str]) -> list[str]:
        return [reply.text for reply in self.chat.generate(prompts, self.settings.sampling)]

    def _fault(self, plan: Plan, text: str) -> str | None:
        adding = self.settings.kind == "keyword_addition"
        return rewriting.fault(
            plan.text,
            text,
            required=plan.keywords if adding else (),
            forbidden=() if adding else plan.keywords,
            pattern=self.settings.word_pattern,
        )


def repaired(
    outcomes: Sequence[Outcome], plans: Sequence[Plan], rules: RuleWriter
) -> list[Outcome]:
    """The outcomes, with those texts that are unchanged written by rule where the rules can."""
    failed = [row for row, outcome in enumerate(outcomes) if outcome.maker is None]
    by_rule = dict(zip(failed, rules([plans[row] for row in failed]), strict=True))
    return [
        Outcome(new.text, new.keywords, new.maker, "; ".join(filter(None, (old.note, new.note))))
        if (new := by_rule.get(row))
        else old
        for row, old in enumerate(outcomes)
    ]
