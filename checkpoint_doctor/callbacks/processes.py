"""The processes of a distributed run: which of them reports, and how they agree."""

from __future__ import annotations

import torch
from msgspec import Struct


class Processes(Struct, frozen=True):
    """This process among those of a distributed run, or the only one."""

    rank: int = 0
    count: int = 1

    @classmethod
    def find(cls) -> Processes:
        """Return what ``torch.distributed`` knows, a single process where it is not in use."""
        distributed = torch.distributed
        if not distributed.is_available() or not distributed.is_initialized():
            return cls()
        return cls(distributed.get_rank(), distributed.get_world_size())

    @property
    def reports(self) -> bool:
        """True for the one process that examines, tells and writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process. All of them must ask at the same time."""
        if self.count == 1:
            return flag
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        raised = torch.tensor([float(flag)], device=device)
        torch.distributed.all_reduce(raised, torch.distributed.ReduceOp.MAX)
        return bool(raised.item())
