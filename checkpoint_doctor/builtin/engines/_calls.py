"""A call that is carried out in another process: what is sent there, and what comes back."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from checkpoint_doctor.errors import DoctorError
from checkpoint_doctor.plugins.protocols import LostTask
from checkpoint_doctor.text import describe_error

ATTEMPTS = 3
"""How often a task is begun whose worker is lost each time."""


class _Failed(Exception):
    """Stands for an exception that may not be importable in the driver, or cannot be pickled."""


def pack(function: Callable[[Any], Any], task: Any) -> bytes:
    """Return a call as bytes, with the folder in which it is to be carried out."""
    return pickle.dumps((os.getcwd(), function, task), pickle.HIGHEST_PROTOCOL)


def carry_out(packed: bytes) -> bytes:
    """Carry out a call in a worker, and return its result or its exception as bytes."""
    try:
        folder, function, task = pickle.loads(packed)
        with suppress(OSError):  # another machine need not have it: then no file is found at a relative path
            os.chdir(folder)
        return pickle.dumps((function(task), None), pickle.HIGHEST_PROTOCOL)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may even call sys.exit
        return pickle.dumps((None, error if isinstance(error, DoctorError) else _Failed(describe_error(error))))


def unpack(answer: bytes | LostTask) -> Any:
    """Return the result of a call, or what stands in its place.

    Raises:
        DoctorError: as the function raised it, with its message and its hint.
        RuntimeError: the function raised something else, which the message describes.
    """
    if isinstance(answer, LostTask):
        return answer
    result, error = pickle.loads(answer)
    if isinstance(error, _Failed):
        raise RuntimeError(f"a worker failed with {error}")
    if error is not None:
        raise error
    return result


def give_up(why: str) -> LostTask:
    """Return what stands in the place of a task's result when its workers were lost one after the other."""
    return LostTask(f"{ATTEMPTS} workers were lost in a row at this: {why}")
