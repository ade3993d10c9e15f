"""Notices parameters that code outside of the optimizer has just set to zero, before the next step hides it.

A bias that is set to zero once looks trained again a few updates later. To compare all values at every step would cost
a pass over them; one entry of each parameter costs a few dozen nanoseconds, and no update makes it exactly zero.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from checkpoint_doctor.callbacks.live_tensors import is_sharded


class OutsideWrites:
    """The first entries of parameters of single or double precision on the CPU, as views of their memory."""

    def __init__(self) -> None:
        self._entries: list[memoryview] = []
        self._tensors: list[torch.Tensor] = []

    def look_anew(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Take the parameters as they are now. Those whose first entry is zero are left out."""
        self._entries, self._tensors = [], []
        for tensor in parameters.values():
            usable = isinstance(tensor, torch.nn.Parameter) and not is_sharded(tensor) and not tensor.is_meta
            if not usable or tensor.device.type != "cpu" or not tensor.numel() or not tensor.is_contiguous():
                continue
            if tensor.dtype in (torch.float32, torch.float64) and tensor.detach().view(-1)[0].item() != 0.0:
                self._entries.append(tensor.detach().view(-1)[:1].numpy().data)
                self._tensors.append(tensor)

    def find(self) -> bool:
        """Return whether a parameter is all zeros now and was not before. It is found once."""
        zeroed = [place for place, entry in enumerate(self._entries) if not entry[0]]
        if not zeroed:
            return False
        found = any(not bool(torch.count_nonzero(self._tensors[place].detach())) for place in zeroed)
        for place in reversed(zeroed):
            del self._entries[place], self._tensors[place]
        return found
