"""Demo page of the metric, for a Space."""

from pathlib import Path

import evaluate
from evaluate.utils import launch_gradio_widget

metric = evaluate.load(str(Path(__file__).with_name("alignment.py")))
launch_gradio_widget(metric)
