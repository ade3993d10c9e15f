"""Which layer reads which layer's output."""

from __future__ import annotations

from collections.abc import Sequence

from checkpoint_doctor.anatomy.outlines import Draft


def connect(drafts: Sequence[Draft]) -> None:
    """Link every draft with the ones that surely read its output."""
