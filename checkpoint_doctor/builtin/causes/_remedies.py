"""The lines of code that help against a cause, in the terms of the library that wrote the checkpoint.

The names are those of PyTorch 2, Stable-Baselines3 2, Lightning 2, transformers 4 and 5, PEFT. ``output`` is the
folder of a run, ``Model`` the class of a model, ``path`` the checkpoint; ``...`` is for the reader to fill in.
"""

from __future__ import annotations

from msgspec import Struct

from checkpoint_doctor.checkpoint import Checkpoint

_CLIPPED = frozenset({"A2C", "PPO", "MaskablePPO", "RecurrentPPO", "DQN"})
"""Algorithms of Stable-Baselines3 and sb3-contrib with a setting for the norm of the gradient."""


class Remedy(Struct, frozen=True):
    """One thing to do, as a line for each library; where there is none for a library, PyTorch's holds."""

    torch: str
    sb3: str = ""
    """``{algorithm}`` stands for the class that wrote the file, ``{optimizer}`` for the attribute that is meant."""
    lightning: str = ""
    transformers: str = ""
    peft: str = ""

    def line(self, checkpoint: Checkpoint, optimizer: str = "policy.optimizer") -> str:
        """Return the line for the library that wrote the checkpoint; empty where PyTorch has none either."""
        if checkpoint.format == "sb3":
            return self.sb3.format(algorithm=checkpoint.algorithm or "PPO", optimizer=optimizer) or self.torch
        if checkpoint.layout == "peft":
            return self.peft or self.transformers or self.torch
        if checkpoint.layout == "transformers" or "transformers" in checkpoint.versions:
            return self.transformers or self.torch
        if "pytorch_lightning" in checkpoint.versions:
            return self.lightning or self.torch
        return self.torch


def clip_gradients(checkpoint: Checkpoint) -> str:
    """Return the line that clips the norm of the gradient."""
    has_setting = checkpoint.format != "sb3" or checkpoint.algorithm in _CLIPPED
    return (_CLIP if has_setting else _SMALLER_STEPS).line(checkpoint)


_SMALLER_STEPS = Remedy("", sb3="model = {algorithm}.load(path, env=env, learning_rate=1e-4)")

_CLIP = Remedy(
    "torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=0.5)",
    sb3="model = {algorithm}.load(path, env=env, max_grad_norm=0.5)",
    lightning="trainer = Trainer(gradient_clip_val=1.0)",
    transformers="args = TrainingArguments(output, max_grad_norm=1.0)",
)

REFUSE_NONFINITE = Remedy(
    "torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, error_if_nonfinite=True)",
    sb3="env = VecCheckNan(env, raise_exception=True)",
    lightning="trainer = Trainer(gradient_clip_val=1.0, detect_anomaly=True)",
    transformers="args = TrainingArguments(output, max_grad_norm=1.0, logging_nan_inf_filter=False)",
)

LOWER_RATE = Remedy(
    "torch.optim.Adam(model.parameters(), lr=1e-4)",
    sb3="model = {algorithm}.load(path, env=env, learning_rate=1e-4)",
    lightning="def configure_optimizers(self): return torch.optim.AdamW(self.parameters(), lr=1e-4)",
    transformers="args = TrainingArguments(output, learning_rate=5e-5, warmup_steps=100)",
    peft="args = TrainingArguments(output, learning_rate=2e-4, warmup_steps=100)",
)

ORDINARY_RATE = Remedy(
    "torch.optim.Adam(model.parameters(), lr=1e-3)",
    sb3="model = {algorithm}.load(path, env=env, learning_rate=3e-4)",
    lightning="def configure_optimizers(self): return torch.optim.AdamW(self.parameters(), lr=1e-3)",
    transformers="args = TrainingArguments(output, learning_rate=5e-5)",
    peft="args = TrainingArguments(output, learning_rate=2e-4)",
)

PLAN_SCHEDULE = Remedy(
    "scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=total_steps)",
    sb3="model = {algorithm}.load(path, env=env, learning_rate=lambda left: 3e-4 * max(left, 0.0))",
    lightning='{"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}'
    "  # what configure_optimizers returns",
    transformers='args = TrainingArguments(output, lr_scheduler_type="cosine", warmup_steps=100, max_steps=...)',
)

SMALL_EPSILON = Remedy(
    "torch.optim.Adam(model.parameters(), lr=..., eps=1e-8)",
    sb3='model = {algorithm}("MlpPolicy", env, policy_kwargs=dict(optimizer_kwargs=dict(eps=1e-5)))',
    lightning="def configure_optimizers(self): return torch.optim.Adam(self.parameters(), lr=..., eps=1e-8)",
    transformers="args = TrainingArguments(output, adam_epsilon=1e-8)",
)

LITTLE_DECAY = Remedy(
    "torch.optim.AdamW(model.parameters(), lr=..., weight_decay=0.01)",
    sb3='model = {algorithm}("MlpPolicy", env, policy_kwargs=dict(optimizer_kwargs=dict(weight_decay=0.0)))',
    lightning="def configure_optimizers(self): return torch.optim.AdamW(self.parameters(), lr=..., weight_decay=0.01)",
    transformers="args = TrainingArguments(output, weight_decay=0.01)",
)

USUAL_BETAS = Remedy(
    "torch.optim.Adam(model.parameters(), lr=..., betas=(0.9, 0.999))",
    sb3='model = {algorithm}("MlpPolicy", env, policy_kwargs=dict(optimizer_kwargs=dict(betas=(0.9, 0.999))))',
    lightning="def configure_optimizers(self): return torch.optim.Adam(self.parameters(), lr=..., betas=(0.9, 0.999))",
    transformers="args = TrainingArguments(output, adam_beta1=0.9, adam_beta2=0.999)",
)

MINIMIZE = Remedy(
    "torch.optim.Adam(model.parameters(), lr=..., maximize=False)",
    lightning="def configure_optimizers(self): return torch.optim.Adam(self.parameters(), lr=..., maximize=False)",
)

NEW_STATE = Remedy(
    "optimizer.state.clear()",
    sb3="model.{optimizer}.state.clear()",
    lightning="trainer.fit(Model.load_from_checkpoint(path), ckpt_path=None)",
    transformers="trainer.train(resume_from_checkpoint=None)",
)

OLD_STATE = Remedy(
    "optimizer.load_state_dict(checkpoint['optimizer'])",
    sb3="model = {algorithm}.load(path, env=env)",
    lightning="trainer.fit(model, ckpt_path=path)",
    transformers="trainer.train(resume_from_checkpoint=True)",
)

UNFREEZE = Remedy(
    "for parameter in part.parameters(): parameter.requires_grad_(True)",
    lightning="BaseFinetuning.make_trainable(model.part)",
    peft="model = PeftModel.from_pretrained(base, path, is_trainable=True)",
)

HOLD_ALL = Remedy(
    "optimizer.add_param_group({'params': model.part.parameters()})",
    lightning="def configure_optimizers(self): return torch.optim.AdamW(self.parameters(), lr=...)",
    transformers="trainer = Trainer(model=model, args=args, train_dataset=data)  # it makes the optimizer itself",
    peft='config = LoraConfig(modules_to_save=["classifier"])',
)

STEP_WITH_GRADIENT = Remedy(
    "optimizer.zero_grad(); loss.backward(); optimizer.step()",
    lightning="def training_step(self, batch, batch_idx): return self.loss(batch)  # not detached, not None",
    transformers='args = TrainingArguments(output, gradient_checkpointing_kwargs={"use_reentrant": False})',
    peft="model.enable_input_require_grads()  # where gradients are checkpointed",
)

MIXED_PRECISION = Remedy(
    'with torch.autocast("cuda", dtype=torch.bfloat16): loss = ...',
    lightning='trainer = Trainer(precision="bf16-mixed")',
    transformers="args = TrainingArguments(output, bf16=True)",
)

SCALE_INPUTS = Remedy(
    "x = (x - mean) / std  # of the training data, saved with the model",
    sb3='env = VecNormalize(env)  # and env.save("vecnormalize.pkl") beside the model',
    lightning='self.register_buffer("mean", mean); self.register_buffer("std", std); x = (x - self.mean) / self.std',
    transformers='inputs = processor(images, do_rescale=True, do_normalize=True, return_tensors="pt")',
)

SCALE_TARGETS = Remedy("target = (target - mean) / std", sb3="env = VecNormalize(env, norm_reward=True)")

LOAD_ALL = Remedy(
    "missing, unexpected = model.load_state_dict(state, strict=True)",
    sb3="model.set_parameters(path, exact_match=True)",
    lightning="model = Model.load_from_checkpoint(path, strict=True)",
    transformers="model, missing = AutoModel.from_pretrained(path, output_loading_info=True)",
    peft="model = PeftModel.from_pretrained(base, path)",
)

KEEP_BEST = Remedy(
    "best = copy.deepcopy(model.state_dict())",
    sb3="callback = EvalCallback(eval_env, best_model_save_path=folder)",
    lightning='callback = ModelCheckpoint(monitor="val_loss", save_top_k=1)',
    transformers='args = TrainingArguments(output, load_best_model_at_end=True, eval_strategy="steps")',
)

SAVE_STATE = Remedy(
    "optimizer.state_dict()",
    lightning="trainer.save_checkpoint(path)",
    transformers="trainer.save_model(output); trainer.save_state()",
)

UPDATE_AVERAGE = Remedy(
    "averaged_model.update_parameters(model)",
    lightning="trainer = Trainer(callbacks=[StochasticWeightAveraging(swa_lrs=1e-2)])",
)

AVERAGE_BUFFERS = Remedy("AveragedModel(model, use_buffers=True)")

FRESH_STATISTICS = Remedy("torch.optim.swa_utils.update_bn(loader, model)")

FIT_VOCABULARY = Remedy("", transformers="model.resize_token_embeddings(len(tokenizer))")
