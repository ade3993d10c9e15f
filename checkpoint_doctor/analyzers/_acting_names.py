"""Which names in a pickle are able to act when another program loads it, and which only describe data.

Names are judged, not what is done with them: a pickle that imports a shell has no business in a checkpoint.
"""

from __future__ import annotations

from checkpoint_doctor.checkpoint import Checkpoint, PickledName

_ABLE_TO_ACT = frozenset(
    (
        "os",
        "posix",
        "nt",
        "subprocess",
        "pty",
        "commands",
        "popen2",
        "multiprocessing",
        "threading",
        "socket",
        "http",
        "urllib",
        "ftplib",
        "smtplib",
        "telnetlib",
        "requests",
        "ctypes",
        "cffi",
        "importlib",
        "runpy",
        "code",
        "codeop",
        "imp",
        "pkgutil",
        "zipimport",
        "shutil",
        "tempfile",
        "pathlib",
        "io",
        "sys",
        "gc",
        "signal",
        "webbrowser",
        "asyncio",
        "concurrent",
        "pdb",
        "bdb",
        "cProfile",
        "profile",
        "timeit",
        "trace",
        "platform",
        "pip",
        "setuptools",
        "distutils",
        "ensurepip",
        "venv",
        "builtins",
        "__builtin__",
        "marshal",
        "types",
        "inspect",
        "pickle",
        "_pickle",
        "cPickle",
        "dill",
        "joblib",
        "shelve",
        "sqlite3",
    )
)
"""Top-level modules whose functions reach outside the process or run code they are handed."""

_ABLE_TO_ACT_BY_NAME = frozenset(
    {
        "operator.methodcaller",
        "torch.load",
        "torch.hub.load",
        "torch.jit.load",
        "torch.utils.cpp_extension.load",
        "numpy.load",
        "numpy.testing._private.utils.runstring",
    }
)

_HARMLESS = frozenset(
    f"{module}.{name}"
    for module in ("builtins", "__builtin__")
    for name in (
        "set",
        "frozenset",
        "list",
        "dict",
        "tuple",
        "int",
        "float",
        "bool",
        "str",
        "bytes",
        "bytearray",
        "complex",
        "slice",
        "range",
        "object",
        "type",
        "property",
        "staticmethod",
        "classmethod",
        "Exception",
        "ValueError",
        "NotImplementedError",
        "super",
    )
) | frozenset(
    {
        "_codecs.encode",
        "types.SimpleNamespace",
        "types.MappingProxyType",
        "pathlib.Path",
        "pathlib.PosixPath",
        "pathlib.PurePosixPath",
        "pathlib.WindowsPath",
        "io.BytesIO",
        "threading.Lock",
        "_thread.allocate_lock",
    }
)

_WAYS_OUT = frozenset(
    {
        "__globals__",
        "func_globals",
        "__builtins__",
        "__subclasses__",
        "__dict__",
        "__code__",
        "__import__",
        "__getattribute__",
        "__reduce__",
        "__reduce_ex__",
        "__loader__",
        "__spec__",
    }
)
"""Attributes that lead from a harmless class or function to the rest of the interpreter."""

_CODE_BY_VALUE = ("cloudpickle.", "dill.")
"""Libraries that store functions and classes by value; SB3 puts schedules into ``data`` this way."""


def can_act(each: PickledName) -> bool:
    """Say whether a name reaches outside the process, or runs code that it is handed."""
    if each.known or each.qualified in _HARMLESS or _rebuilds_a_function(each):
        return False
    if each.module.partition(".")[0] in _ABLE_TO_ACT or each.qualified in _ABLE_TO_ACT_BY_NAME:
        return True
    parts = each.name.split(".")
    return not _ABLE_TO_ACT.isdisjoint(parts[:-1]) or not _WAYS_OUT.isdisjoint(parts)


def _rebuilds_a_function(each: PickledName) -> bool:
    # cloudpickle takes functions apart into these; without a name that acts they only describe code.
    return each.member == "data" and (
        each.module.startswith(_CODE_BY_VALUE)
        or each.qualified in ("types.CodeType", "types.FunctionType", "builtins.getattr", "__builtin__.getattr")
    )


def describes_settings(each: PickledName, checkpoint: Checkpoint) -> bool:
    """Say whether a name belongs to the settings that Stable-Baselines3 pickles into every file."""
    return each.member == "data" and checkpoint.format == "sb3"
