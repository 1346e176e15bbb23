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

`--weights` lets some tokens of the labels count more than others, by what the model before adaptation (the
adapters switched off) makes of them:

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


def prompts_and_answers(prior: CAPPrior, dataset: Dataset) -> Dataset:
    """The prompt of `cap` about each text, and its label as the completion."""
    opened = prior.open()
    queries = [
        opened.query(opened.prompt(row.text), row.text, opened.labels[row.label])
        for row in prior.read_rows(dataset[:])
    ]
    return Dataset.from_dict(
        {
            "prompt": [query.prefix + query.body for query in queries],
            "completion": [query.answer for query in queries],
        }
    )


def token_weights(kind: str, now: Tensor, before: Tensor, mask: Tensor) -> Tensor:
    """Weights of the tokens of the mask, of mean 1, and 0 elsewhere.

    Args:
        kind: `uniform`, `reference` or `excess`.
        now, before: Losses of the tokens in nats, `(batch, tokens)`.
        mask: Which tokens have a loss, `(batch, tokens)`.
    """
    scores = {
        "uniform": torch.zeros_like(now),
        "reference": (-torch.expm1(-before)).clamp_min(1e-6).log(),
        "excess": before - now,
    }[kind]
    shares = scores.masked_fill(~mask, -torch.inf).flatten().softmax(0)
    return shares.view_as(now) * mask.sum()


class TokenWeightedTrainer(SFTTrainer):
    """An `SFTTrainer` of adapters whose tokens count by `token_weights` of the kind `weights`."""

    weights = "uniform"

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
        with torch.no_grad(), self.accelerator.unwrap_model(model).disable_adapter():
            before = -model(**inputs).log_probs
        weight = token_weights(self.weights, now.detach(), before, mask)
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
        weights: How the tokens of the labels count: `uniform`, `reference` or `excess`.
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
        train_dataset=prompts_and_answers(prior, dataset),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"),
    )
    trainer.weights = weights
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
    parser.add_argument("--weights", choices=("uniform", "reference", "excess"), default="uniform")
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
