"""The checks of a run as one report: what ``ckdoc scan --format json`` prints, with one entry for each check."""

from __future__ import annotations

import os

from checkpoint_doctor.callbacks.replacing import replacing
from checkpoint_doctor.config.settings import Config
from checkpoint_doctor.plugins.catalogue import Catalogue
from checkpoint_doctor.results.json import to_json, write_json
from checkpoint_doctor.results.report import Examination, Report

MOST_CHECKS = 512
"""Checks that are kept. Of longer runs every second of the older ones is left out, but none with news."""


class Series:
    """The examinations of a run, in their order."""

    def __init__(self, catalogue: Catalogue, config: Config) -> None:
        self._catalogue, self._config = catalogue, config
        self._kept: list[tuple[Examination, bool]] = []

    def add(self, examination: Examination, *, has_news: bool) -> None:
        """Add the latest check."""
        self._kept.append((examination, has_news))
        if len(self._kept) > MOST_CHECKS:
            last = len(self._kept) - 1
            self._kept = [kept for place, kept in enumerate(self._kept) if place % 2 == 0 or kept[1] or place == last][
                -2 * MOST_CHECKS :
            ]

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def latest(self) -> Examination | None:
        """The latest check, ``None`` before the first."""
        return self._kept[-1][0] if self._kept else None

    def report(self, *, only_latest: bool = False) -> Report:
        """Return the report on all checks, or on the latest one alone."""
        kept = self._kept[-1:] if only_latest else self._kept
        return Report(
            checkpoints=tuple(examination for examination, _ in kept),
            rules=len(self._catalogue.rules),
            fail_on=self._config.fail_on,
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the series as JSON.

        Raises:
            OSError: it cannot be written.
        """
        with replacing(path) as temporary:
            temporary.write_text(write_json(to_json(self.report())), encoding="utf-8")
