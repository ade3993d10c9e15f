"""Folders written by transformers, PEFT and accelerate themselves, where these are installed (see tests/README.md)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from checkpoint_doctor.acts.fix import FixOptions, Outcome, fix
from checkpoint_doctor.acts.scan import scan
from checkpoint_doctor.plugins.catalogue import discover
from checkpoint_doctor.plugins.opening import open_checkpoint
from checkpoint_doctor.results.report import Verdict

transformers = pytest.importorskip("transformers")

CATALOGUE = discover()
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertForSequenceClassification", SMALL),
    "roberta": ("RobertaConfig", "RobertaForSequenceClassification", SMALL),
    "distilbert": (
        "DistilBertConfig", "DistilBertForSequenceClassification",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "vocab_size": 100},
    ),
    "gpt2": ("GPT2Config", "GPT2LMHeadModel", {"n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 100}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", {**SMALL, "num_key_value_heads": 2}),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {**SMALL, "num_key_value_heads": 2}),
    "opt": ("OPTConfig", "OPTForCausalLM", {**SMALL, "ffn_dim": 64, "word_embed_proj_dim": 32}),
}  # fmt: skip
ILL = {"bert": "bert.encoder.layer.1.intermediate.dense.bias", "gpt2": "transformer.h.1.mlp.c_fc.bias"}


class Words(torch.utils.data.Dataset):
    def __init__(self, are_classes: bool) -> None:
        self.are_classes = are_classes

    def __len__(self) -> int:
        return 128

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        words = torch.randint(3, 100, (12,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": words, "labels": (words[0] > 50).long() if self.are_classes else words}


def build(kind: str) -> Any:
    config, model, settings = MODELS[kind]
    torch.manual_seed(0)
    return getattr(transformers, model)(getattr(transformers, config)(**settings))


def trainer_of(model: Any, folder: Path, *, steps: int = 40, **options: Any) -> Any:
    arguments = transformers.TrainingArguments(
        output_dir=str(folder), max_steps=steps, save_steps=20, per_device_train_batch_size=8, report_to=[],
        use_cpu=True, disable_tqdm=True, weight_decay=0.01, learning_rate=1e-3, logging_steps=1000, **options,
    )  # fmt: skip
    are_classes = "Classification" in type(model).__name__
    return transformers.Trainer(model=model, args=arguments, train_dataset=Words(are_classes))


def true_names(model: nn.Module, optimizer: Any) -> list[str]:
    names = {id(each): name for name, each in model.named_parameters()}
    groups = getattr(optimizer, "optimizer", optimizer).param_groups
    return [names[id(each)] for group in groups for each in group["params"]]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("kind", MODELS)
def test_a_trainers_checkpoint_is_read_as_the_library_reads_it(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    trainer = trainer_of(model, tmp_path)
    trainer.train()
    report = scan([tmp_path], catalogue=CATALOGUE)
    assert [Path(each.path).name for each in report.checkpoints] == ["checkpoint-20", "checkpoint-40"]
    assert {(each.verdict, each.layout) for each in report.checkpoints} == {(Verdict.HEALTHY, "transformers")}
    assert not report.failed
    checkpoint = open_checkpoint(tmp_path / "checkpoint-40", CATALOGUE)
    loaded = type(model).from_pretrained(tmp_path / "checkpoint-40").state_dict()
    assert all(np.array_equal(each.array, loaded[each.name].numpy()) for each in checkpoint.tensors)
    (optimizer,) = checkpoint.optimizers
    assert [each.tensor for each in optimizer.parameters] == true_names(model, trainer.optimizer)


@pytest.mark.parametrize("kind", ILL)
def test_a_repaired_folder_is_taken_by_from_pretrained_and_by_trainer(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    trainer_of(model, tmp_path / "run").train()
    with torch.no_grad():
        model.get_parameter(ILL[kind]).zero_()
    folder = tmp_path / "run" / "checkpoint-40"
    model.save_pretrained(folder)
    (examination,) = scan([folder], catalogue=CATALOGUE).checkpoints
    assert "overwritten" in {each.cause for each in examination.diagnoses}
    (result,) = fix([folder], FixOptions(), catalogue=CATALOGUE)
    assert result.outcome is Outcome.FIXED, result.error
    again = type(model).from_pretrained(result.output)
    assert again.get_parameter(ILL[kind]).abs().min() > 0
    trainer = trainer_of(again, tmp_path / "resumed", steps=50)
    trainer.train(resume_from_checkpoint=result.output)
    assert trainer.state.global_step == 50


@pytest.mark.parametrize("safe", [True, False])
def test_shards_of_save_pretrained_are_one_model(safe: bool, tmp_path: Path) -> None:
    model = build("llama")
    model.save_pretrained(tmp_path, max_shard_size="30KB", safe_serialization=safe)
    (examination,) = scan([tmp_path], catalogue=CATALOGUE).checkpoints
    assert examination.verdict is Verdict.HEALTHY
    assert {each.name for each in examination.tensors} == {name for name, _ in model.named_parameters()}


def test_an_adapters_optimizer_is_joined_to_it(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=4, task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj", "down_proj"])
    model = peft.get_peft_model(build("llama"), config)
    trainer = trainer_of(model, tmp_path)
    trainer.train()
    (optimizer,) = open_checkpoint(tmp_path / "checkpoint-40", CATALOGUE).optimizers
    truth = [name.replace(".default", "") for name in true_names(model, trainer.optimizer)]
    assert [each.tensor for each in optimizer.parameters] == truth


@pytest.mark.parametrize("safe", [True, False])
def test_accelerates_models_have_their_optimizers(safe: bool, tmp_path: Path) -> None:
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True)
    encoder, head = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4)), nn.Linear(4, 2)
    optimizers = [torch.optim.AdamW(encoder.parameters(), 1e-3), torch.optim.SGD(head.parameters(), 1e-2, momentum=0.9)]
    encoder, head, *optimizers = accelerator.prepare(encoder, head, *optimizers)
    for _ in range(30):
        x = torch.randn(16, 8)
        accelerator.backward((head(encoder(x)) - x[:, :2] * 2 - 1).square().mean())
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    accelerator.save_state(str(tmp_path / "state"), safe_serialization=safe)
    (examination,) = scan([tmp_path], catalogue=CATALOGUE).checkpoints
    assert (examination.verdict, examination.layout) == (Verdict.HEALTHY, "accelerate")
    found = open_checkpoint(tmp_path / "state", CATALOGUE).optimizers
    stem = "model" if safe else "pytorch_model"
    assert [[part.tensor for part in each.parameters] for each in found] == [
        [f"{stem}/{name}" for name, _ in encoder.named_parameters()],
        [f"{stem}_1/{name}" for name, _ in head.named_parameters()],
    ]


def test_a_run_of_lightning_is_one_checkpoint_with_its_settings_and_metrics(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger

    class Regression(lightning.LightningModule):  # type: ignore[misc]
        def __init__(self, rate: float = 1e-2) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            loss = (self.net(batch[0]) - batch[0][:, :2] * 2 + 1).square().mean()
            self.log("loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), self.hparams.rate)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 4)]

    torch.manual_seed(0)
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.randn(256, 4)), batch_size=32)
    trainer = lightning.Trainer(
        max_epochs=6, accelerator="cpu", logger=CSVLogger(tmp_path), callbacks=[ModelCheckpoint()],
        enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
    )  # fmt: skip
    model = Regression()
    trainer.fit(model, data)
    (examination,) = scan([tmp_path], catalogue=CATALOGUE).checkpoints
    assert (examination.verdict, examination.layout) == (Verdict.HEALTHY, "lightning")
    assert {part.content.word for part in examination.parts} == {"weights", "settings", "evaluations"}
    assert examination.resume_answer == "resumes at step 48 with a learning rate of 0.001"
    checkpoint = open_checkpoint(examination.path, CATALOGUE)
    assert [each.tensor for each in checkpoint.optimizers[0].parameters] == [
        name for name, _ in model.named_parameters()
    ]
    trainer.save_checkpoint(Path(examination.path) / "checkpoints" / "last.ckpt")
    report = scan([tmp_path], catalogue=CATALOGUE)
    assert [Path(each.path).suffix for each in report.checkpoints] == [".ckpt", ".ckpt"]
    assert not report.failed
