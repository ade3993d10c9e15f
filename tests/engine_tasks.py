"""Functions that the tests of the engines carry out in other processes."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from checkpoint_doctor.errors import UnknownFormat


def double(number: int) -> int:
    return 2 * number


def name_process(number: int) -> int:
    time.sleep(0.05)
    return os.getpid()


def refuse_five(number: int) -> int:
    if number == 5:
        raise UnknownFormat("five is not read", "take six", "a prime number")
    return number


def fail_at_five(number: int) -> float:
    return 1 / (number - 5)


def die_at_five(number: int) -> int:
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def die_once(marker: str) -> str:
    if marker and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return marker


def rest(seconds: float) -> float:
    time.sleep(seconds)
    return seconds
