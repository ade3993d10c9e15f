"""Which layers are output heads."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint_doctor.anatomy.outlines import Draft


def find_outputs(drafts: Sequence[Draft]) -> None:
    """Mark the drafts whose output no other layer reads."""
