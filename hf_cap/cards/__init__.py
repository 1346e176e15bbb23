"""Cards of models and prior data sets: typed facts, their metadata, and the Markdown drawn from them.

Low in the house, because the trainer writes a card as well as the command line; nothing here knows a
network, torch or a data set.
"""

from .facts import (
    ConfigurationFacts,
    EvaluationFacts,
    ExampleFacts,
    LogFacts,
    ModelCardFacts,
    PriorCardFacts,
    PriorFacts,
)
from .render import render_card
from .run import model_facts

__all__ = [
    "ConfigurationFacts",
    "EvaluationFacts",
    "ExampleFacts",
    "LogFacts",
    "ModelCardFacts",
    "PriorCardFacts",
    "PriorFacts",
    "model_facts",
    "render_card",
]
