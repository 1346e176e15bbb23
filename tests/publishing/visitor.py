"""What a client process does on the Hub: functions of plain values, with heavy imports inside."""

from pathlib import Path
from typing import Any


def push_run(run: str, repo_id: str, **options: Any) -> str:
    """Push a run as `hf-cap push` does; waits are short."""
    from hf_cap import hub
    from hf_cap import hub as faults
    from hf_cap.hub import ModelPush

    faults.FIRST_WAIT = 0.01
    return str(hub.push_model(ModelPush(run=run, repo_id=repo_id, push=True, **options)))


def push_priors(folder: str, repo_id: str, **options: Any) -> str:
    from hf_cap import hub
    from hf_cap import hub as faults
    from hf_cap.hub import PriorPush

    faults.FIRST_WAIT = 0.01
    return str(hub.push_priors(PriorPush(dataset=folder, repo_id=repo_id, push=True, **options)))


def push_in_memory(folder: str, repo_id: str) -> str:
    from hf_cap.data import load_splits
    from hf_cap.hub import push_prior_dataset

    return push_prior_dataset(load_splits(folder), repo_id, license="apache-2.0", private=False)


def push_metric(folder: str, repo_id: str) -> str:
    from hf_cap.hub import MetricPush, push_metric

    options = MetricPush(metric=folder, repo_id=repo_id, push=True, output_dir=folder + "-hub")
    return str(push_metric(options))


def check(repo_id: str, kind: Any = "model", token: str | None = None) -> None:
    from hf_cap.hub import check_access

    check_access(repo_id, kind, token=token)


def classify(repo_id: str, text: str) -> Any:
    """With plain transformers."""
    from transformers import pipeline

    return pipeline("text-classification", model=repo_id)(text)


def explain(repo_id: str, text: str) -> Any:
    from transformers import pipeline

    from hf_cap.pipelines import register_pipeline

    register_pipeline()
    build: Any = pipeline  # its types know no task but those of transformers
    return build("explained-text-classification", model=repo_id)(text, steps=4)


def load_priors(name: str, configuration: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Rows of each split."""
    from hf_cap.hub import load_prior_dataset

    return {split: list(data) for split, data in load_prior_dataset(name, configuration).items()}


def feature_of(name: str, configuration: str, column: str) -> str:
    from hf_cap.hub import load_prior_dataset

    return str(load_prior_dataset(name, configuration)["train"].features[column])


def train_on(name: str, folder: str) -> list[dict[str, Any]]:
    """Train on published priors, and tell the training log and the modules that were imported."""
    import sys

    from hf_cap.hub import load_prior_dataset
    from hf_cap.training.config import CAPConfig
    from hf_cap.training.trainer import CAPTrainer
    from tests.tiny import roberta_classifier, word_tokenizer

    priors = load_prior_dataset(name)
    config = CAPConfig(folder, num_train_epochs=1.0, logging_steps=1, report_to="none")
    model = roberta_classifier(len(priors["train"].features["label"].names))
    trainer = CAPTrainer(
        model, config, train_dataset=priors["train"], processing_class=word_tokenizer()
    )
    trainer.train()
    asked = [module for module in sys.modules if module.startswith(("hf_cap.lm", "hf_cap.priors"))]
    return [*trainer.state.log_history, {"asked": asked}]


def push_trainer(folder: str, repo_id: str, priors: str) -> None:
    """Train a little and push straight from the trainer."""
    from hf_cap.data import load_splits
    from hf_cap.training.config import CAPConfig
    from hf_cap.training.trainer import CAPTrainer
    from tests.tiny import roberta_classifier, word_tokenizer

    config = CAPConfig(
        folder,
        max_steps=2,
        logging_steps=1,
        hub_model_id=repo_id,
        report_to="none",
        learning_rate=1e-3,
    )
    train = load_splits(priors)["train"]
    model = roberta_classifier()
    trainer = CAPTrainer(model, config, train_dataset=train, processing_class=word_tokenizer())
    trainer.train()
    trainer.push_to_hub(license="mit", language="en")


def measure(repo_id: str) -> Any:
    """Load a metric Space and compute it."""
    import evaluate

    return evaluate.load(repo_id).compute(predictions=[1, 0], references=[1, 1])


def download(repo_id: str, kind: str = "model") -> dict[str, bytes]:
    """The files of a repository."""
    from huggingface_hub import snapshot_download

    folder = Path(snapshot_download(repo_id, repo_type=kind))
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file()
    }


def visibility(repo_id: str, kind: str = "model") -> bool | None:
    from huggingface_hub import HfApi

    return HfApi().repo_info(repo_id, repo_type=kind).private
