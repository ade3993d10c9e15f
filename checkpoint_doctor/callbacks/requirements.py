"""Says in one sentence what to install where a library is missing."""

from __future__ import annotations

from importlib.util import find_spec

from checkpoint_doctor.errors import UsageError


def require(module: str, package: str, callback: str) -> None:
    """Make sure that a library is installed before a callback imports it.

    Args:
        module: the name under which it is imported.
        package: the name under which ``pip`` installs it.
        callback: what needs it, for the message.

    Raises:
        UsageError: it is not installed.
    """
    if find_spec(module) is None:
        raise UsageError(f"{callback} needs {package}, which is not installed: pip install {package}")
