"""transformers: one more callback. Resume with ``trainer.train(resume_from_checkpoint="healthy")``."""

from __future__ import annotations

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from checkpoint_doctor.callbacks.transformers import DoctorCallback


class Counting(torch.utils.data.Dataset):
    """Sequences that count upwards."""

    def __len__(self) -> int:
        return 256

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = torch.arange(16).add(index).remainder(32)
        return {"input_ids": tokens, "labels": tokens}


def main(steps: int = 100, output: str = "run", healthy: str = "healthy") -> DoctorCallback:
    """Train, and return the callback with all that it saw."""
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=16, n_embd=32, n_layer=2, n_head=2))
    doctor = DoctorCallback(check_every=max(steps // 4, 1), on_error="stop", save_healthy=healthy)
    arguments = TrainingArguments(output, max_steps=steps, use_cpu=True, report_to=[], save_strategy="no")
    Trainer(model, arguments, train_dataset=Counting(), callbacks=[doctor]).train()
    return doctor


if __name__ == "__main__":
    main()
