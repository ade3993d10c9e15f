"""Five lines that prevent what happened to a fusion network of 100 tensors: 28 biases at zero, found weeks later.

Lines 1 to 5 are marked. The loop around them does two things wrong on purpose: it sets a bias to zero,
and at the end a NaN comes in. The first is told at once, the second never reaches the weights.
"""

from __future__ import annotations

import torch

from checkpoint_doctor.callbacks.torch import Monitor  # 1


def main(steps: int = 3000, healthy: str = "healthy.pt") -> Monitor:
    """Train a small GRU, and let things go wrong."""
    torch.manual_seed(0)
    encoder, head = torch.nn.GRU(6, 32, batch_first=True), torch.nn.Linear(32, 2)
    model = torch.nn.ModuleDict({"encoder": encoder, "head": head})
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    every = max(steps // 6, 1)
    monitor = Monitor(model, optimizer, check_every=every, on_error="warn", save_healthy=healthy)  # 2
    for step in range(steps):
        batch = torch.randn(16, 10, 6)
        hidden, _ = encoder(batch)
        loss = (head(hidden[:, -1]) - batch.sum(1)[:, :2]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        if step == steps // 2:
            head.bias.data.zero_()  # a repair script that nobody remembers
        if step == steps - every:
            monitor.on_error = "stop"
            assert encoder.weight_ih_l0.grad is not None
            encoder.weight_ih_l0.grad[3, 3] = float("nan")
        optimizer.step()
        if monitor.should_stop:  # 3
            break  # 4
    monitor.close()  # 5
    return monitor


if __name__ == "__main__":
    main()
    state = torch.load("healthy.pt")  # resume with model.load_state_dict(state["model"])
    print(f"the last healthy checkpoint is that of step {state['step']}")  # noqa: T201
