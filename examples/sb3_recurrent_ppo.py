"""RecurrentPPO with the figures of each layer in the logger."""

from __future__ import annotations

from sb3_contrib import RecurrentPPO

from checkpoint_doctor.callbacks.sb3 import DoctorCallback


def main(steps: int = 1024) -> DoctorCallback:
    """Train, and return the callback with all that it saw."""
    settings = {"lstm_hidden_size": 32}
    model = RecurrentPPO(
        "MlpLstmPolicy", "CartPole-v1", n_steps=min(128, steps // 2), policy_kwargs=settings, seed=0, verbose=1
    )
    doctor = DoctorCallback(check_every=max(steps // 4, 1), per_layer=True)
    model.learn(steps, callback=doctor)
    return doctor


if __name__ == "__main__":
    main()
