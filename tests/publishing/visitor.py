"""What a client process does on the Hub: functions of plain values, with heavy imports inside."""

from pathlib import Path
from typing import Any


def train(priors: str, folder: str, repo_id: str | None = None) -> tuple[Any, list[str]]:
    """Train on published priors, and push if `repo_id` is given.

    Gives the training log, and imported modules of language models and sources.
    """
    import sys

    from hf_cap import CAPConfig, CAPTrainer, load_prior_dataset
    from tests.tiny import roberta_classifier, word_tokenizer

    data = load_prior_dataset(priors)["train"]
    config = CAPConfig(
        folder, num_train_epochs=1.0, logging_steps=1, learning_rate=1e-3, hub_model_id=repo_id,
        report_to="none",
    )  # fmt: skip
    model = roberta_classifier(len(data.features["label"].names))
    trainer = CAPTrainer(model, config, train_dataset=data, processing_class=word_tokenizer())
    trainer.train()
    if repo_id:
        trainer.push_to_hub(license="mit", language="en")
    asking = ("hf_cap.lm", "hf_cap.priors.language_model")
    return trainer.state.log_history, [name for name in sys.modules if name.startswith(asking)]


def pipeline(task: str, repo_id: str, text: str, **options: Any) -> Any:
    """The answer of a pipeline of transformers."""
    import transformers

    from hf_cap.pipelines import register_pipeline

    register_pipeline()
    build: Any = transformers.pipeline  # its types know no task but those of transformers
    return build(task, model=repo_id)(text, **options)


def load_priors(name: str, configuration: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Rows of each split."""
    from hf_cap import load_prior_dataset

    return {split: list(data) for split, data in load_prior_dataset(name, configuration).items()}


def measure(repo_id: str) -> Any:
    """Load a metric Space and compute it."""
    import evaluate

    scores, marks = [[0.9, 0.1, 0.2]], [[1, 0, 0]]
    return evaluate.load(repo_id).compute(predictions=scores, references=marks)


def download(repo_id: str, kind: str = "model") -> tuple[dict[str, bytes], bool | None]:
    """The files of a repository, and whether it is private."""
    from huggingface_hub import HfApi, snapshot_download

    folder = Path(snapshot_download(repo_id, repo_type=kind))
    files = {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}
    return files, HfApi().repo_info(repo_id, repo_type=kind).private
