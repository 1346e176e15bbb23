"""Teach a language model the task by LoRA before extraction, with TRL's `SFTTrainer`.

A prior is as good as what the language model knows of the task, and a small one knows little. This script
trains LoRA adapters (arXiv 2106.09685) on the few labelled texts, with the very prompts that `cap` scores:
the loss is -log p(label | prompt), on the tokens of the label alone. The merged model is then given to
`hf-cap extract --model`.

    pip install trl "hf-cap[peft]"
    python examples/adapt_language_model.py --dataset embedded/library-desk \
        --model embedded/smollm2-135m-instruct --output_dir runs/adapted
    hf-cap extract --dataset embedded/library-desk --model runs/adapted/model \
        --output_dir runs/priors --sources cap --prompt.chat false --prompt.demonstrations 0

`--weights` lets some tokens count more than others; `reference` and `excess` by what the model before
adaptation (the adapters switched off) makes of the tokens of the labels:

    prior       the texts are learned too: tokens of words that speak for the label by the column `prior`
                (`hf-cap fuse`) count, at most as much as the tokens of the labels, the others hardly
    reference   1 - p(token) before: what it could say anyway counts little
                (prioritised training, arXiv 2505.08971)
    excess      softmax of the loss before minus the loss now, over the tokens of the batch
                (the retrospective excess loss of ssToken, arXiv 2510.18250)
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from hf_cap import CAPPrior, load_splits
from hf_cap.embedded import resolve_model
from hf_cap.words import word_strings

KINDS = ("uniform", "prior", "reference", "excess")


def prompts_and_answers(prior: CAPPrior, dataset: Dataset, texts: bool = False) -> Dataset:
    """The prompt of `cap` about each text, and its label as the completion, or with `texts` both of them."""
    opened = prior.open()
    queries = [
        opened.query(opened.prompt(row.text), row.text, opened.labels[row.label])
        for row in prior.read_rows(dataset[:])
    ]
    return Dataset.from_dict(
        {
            "prompt": [query.prefix + query.body * (not texts) for query in queries],
            "completion": [query.body * texts + query.answer for query in queries],
        }
    )


def token_importance(dataset: Dataset, answers: list[str], tokenizer: Any) -> Tensor:
    """How much each token of the vocabulary matters, in [0, 1]; shape `(vocabulary,)`.

    1 in the answers; elsewhere the mean over its words of the positive part of their prior, as a part of the
    highest of the text; 0 where it is in no word.
    """
    total, count = torch.zeros(2, len(tokenizer))
    for text, prior in zip(dataset["text"], dataset["prior"], strict=True):
        scores = [max(score, 0.0) for score in prior or []]
        for word, score in zip(word_strings(text) if prior else [], scores, strict=True):
            ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
            total[ids] += score / (max(scores) or 1.0)
            count[ids] += 1
    found: Tensor = total / count.clamp_min(1)
    for answer in answers:
        found[tokenizer(answer, add_special_tokens=False)["input_ids"]] = 1.0
    return found


def token_weights(
    kind: str, now: Tensor, before: Tensor, mask: Tensor, importance: Tensor | None = None
) -> Tensor:
    """Weights of the tokens of the mask, of mean 1, and 0 elsewhere.

    Args:
        kind: `uniform`, `prior`, `reference` or `excess`.
        now, before: Losses of the tokens in nats, `(batch, tokens)`.
        mask: Which tokens have a loss, `(batch, tokens)`.
        importance: Of each token, at least 0, for `prior`; `(batch, tokens)`.
    """
    scores = {
        "uniform": torch.zeros_like(now),
        "prior": (now if importance is None else importance).clamp_min(1e-6).log(),
        "reference": (-torch.expm1(-before)).clamp_min(1e-6).log(),
        "excess": before - now,
    }[kind]
    shares = scores.masked_fill(~mask, -torch.inf).flatten().softmax(0)
    return shares.view_as(now) * mask.sum()


class TokenWeightedTrainer(SFTTrainer):
    """An `SFTTrainer` of adapters whose tokens count by `token_weights` of the kind `weights`."""

    weights = "uniform"
    importance: Tensor | None = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of `SFTTrainer`, in training with weights, which carry no gradient."""
        if self.weights == "uniform" or not model.training:
            plain: Any = super().compute_loss
            return plain(model, inputs, return_outputs, num_items_in_batch)
        inputs = {**inputs, "use_cache": False, "fused_lm_head": True}
        outputs = model(**inputs)
        now, mask = -outputs.log_probs, outputs.label_mask.bool()
        before, importance = now.detach(), None
        if self.importance is None:
            with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
                before = -model(**inputs).log_probs
        else:
            importance = self.importance.to(now.device)[inputs["labels"][:, 1:].clamp_min(0)]
        weight = token_weights(self.weights, now.detach(), before, mask, importance)
        # the tokens of all micro-batches and processes, whose gradients are averaged
        tokens = mask.sum() if num_items_in_batch is None else num_items_in_batch
        total = num_items_in_batch is not None and self.args.average_tokens_across_devices
        loss = (weight * now).sum() / tokens * (self.accelerator.num_processes if total else 1)
        return (loss, outputs) if return_outputs else loss


def adapt(
    dataset: Dataset, model_name: str, output_dir: Path, weights: str = "uniform", **options: Any
) -> list[float]:
    """Train adapters and save the model with them merged in.

    Args:
        dataset: Labelled texts, as `load_splits` returns them.
        model_name: Causal language model: Hub id, folder or embedded name.
        output_dir: The merged model goes to its folder `model`.
        weights: How the tokens count: `uniform`, `prior`, `reference` or `excess`.
        options: Settings of `SFTConfig`, such as `num_train_epochs`.

    Returns:
        The loss at each logged step, in nats per token of the label; lower is better.
    """
    folder = resolve_model(model_name)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # plain text and no demonstrations: a training text must not stand in its own prompt
    prior = CAPPrior.from_dataset(dataset, model=(model, tokenizer), chat=False, demonstrations=0)
    trainer = TokenWeightedTrainer(
        model=model,
        args=SFTConfig(
            output_dir=str(output_dir),
            completion_only_loss=True,
            max_length=None,
            save_strategy="no",
            report_to="none",
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            bf16=False,
            **{"logging_steps": 1, "learning_rate": 1e-3, "num_train_epochs": 2, **options},
        ),
        train_dataset=prompts_and_answers(prior, dataset, texts=weights == "prior"),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"),
    )
    trainer.weights = weights
    if weights == "prior":
        answers = prompts_and_answers(prior, dataset)["completion"]
        trainer.importance = token_importance(dataset, answers, tokenizer)
    trainer.train()
    adapted: Any = trainer.model
    merged = adapted.merge_and_unload()
    merged.save_pretrained(output_dir / "model")
    tokenizer.save_pretrained(output_dir / "model")
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    """Read the command line, adapt, and print the first and the last loss."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="labelled data with a split `train`")
    parser.add_argument("--model", default="meta-llama/Llama-3.2-1B-Instruct")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--weights", choices=KINDS, default="uniform")
    arguments = parser.parse_args()
    losses = adapt(
        load_splits(arguments.dataset, splits=["train"])["train"],
        arguments.model,
        arguments.output_dir,
        arguments.weights,
        num_train_epochs=arguments.epochs,
    )
    print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}; model in {arguments.output_dir / 'model'}")


if __name__ == "__main__":
    main()
