"""SAC that stops before a NaN reaches the weights, and goes on from the last agent that passed a check."""

from __future__ import annotations

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback

from checkpoint_doctor.callbacks.sb3 import DoctorCallback


class Saboteur(BaseCallback):
    """Makes one gradient of the critic NaN, as an infinite observation would."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def _on_step(self) -> bool:
        if self.num_timesteps == self.step:
            weight = self.model.policy.critic.qf0[2].weight
            weight.register_hook(lambda gradient: torch.full_like(gradient, float("nan")))
        return True


def main(steps: int = 1200, healthy: str = "healthy.zip") -> SAC:
    """Train until the NaN, then resume."""
    model = SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [32, 32]}, seed=0, device="cpu")
    doctor = DoctorCallback(check_every=max(steps // 8, 1), on_error="stop", save_healthy=healthy)
    model.learn(steps, callback=[doctor, Saboteur(steps // 2)])
    resumed = SAC.load(healthy, env=model.get_env())
    return resumed.learn(steps // 4, reset_num_timesteps=False)


if __name__ == "__main__":
    main()
