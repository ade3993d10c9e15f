"""PPO with the doctor watching: figures in the logger, findings on the console, a series for ``ckdoc compare``."""

from __future__ import annotations

from stable_baselines3 import PPO

from checkpoint_doctor.callbacks.sb3 import DoctorCallback


def main(steps: int = 8192, series: str = "ppo.json") -> DoctorCallback:
    """Train, and return the callback with all that it saw."""
    model = PPO("MlpPolicy", "CartPole-v1", n_steps=min(512, steps // 4), seed=0, device="cpu")
    doctor = DoctorCallback(check_every=max(steps // 8, 1), series=series)
    model.learn(steps, callback=doctor)
    return doctor


if __name__ == "__main__":
    main()
