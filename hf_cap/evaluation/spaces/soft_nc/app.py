"""Demo page of the metric, for a Space."""

from functools import partial
from pathlib import Path

import evaluate
from evaluate.utils import launch_gradio_widget

metric = evaluate.load(str(Path(__file__).with_name("soft_nc.py")))
# the form asks for texts and scores only, so the page fixes the classifier
metric.compute = partial(
    metric.compute, model="distilbert/distilbert-base-uncased-finetuned-sst-2-english"
)
launch_gradio_widget(metric)
