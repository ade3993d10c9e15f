"""Which names in a pickle can run code when another program loads it, and which only describe data.

Only the names count, not how they are used: no checkpoint needs to import a shell.
"""

from __future__ import annotations

from checkpoint_doctor.checkpoint import Checkpoint, Content, PickledName

_EXECUTABLE_MODULES = frozenset(
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
"""Top-level modules with functions that access files, processes or the network, or run code that is passed to them."""

_EXECUTABLE_NAMES = frozenset(
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
        # It calls what it is given, which is a name of its own in the file, to build a NumPy array.
        "dill._dill._create_array",
        "dill.dill._create_array",
    }
)
_JOBLIB_ARRAYS = frozenset(
    f"{home}joblib.numpy_pickle.{name}"
    for home in ("", "sklearn.externals.")
    for name in ("NumpyArrayWrapper", "NDArrayWrapper")
)
"""Classes that describe the arrays in joblib's files; unpickling them reads nothing."""

_ESCAPES = frozenset(
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
"""Attributes that give access to the rest of the interpreter from a harmless class or function."""

_CODE_BY_VALUE = ("cloudpickle.", "ray.cloudpickle.", "dill.")
"""Libraries that store functions and classes by value; SB3 stores schedules in ``data`` this way."""


_PICKLED_OBJECTS = (Content.SETTINGS, Content.RANDOM_STATE, Content.PROGRESS, Content.NORMALIZATION)
"""Files that libraries pickle as objects of their own: ``training_args.bin``, ``vecnormalize.pkl``."""


def can_execute(each: PickledName, checkpoint: Checkpoint) -> bool:
    """Tell whether a name can access files, processes or the network, or run code that is passed to it."""
    if each.known or each.qualified in _HARMLESS or each.qualified in _JOBLIB_ARRAYS:
        return False
    if _rebuilds_a_function(each, checkpoint):
        return False
    if each.module.partition(".")[0] in _EXECUTABLE_MODULES or each.qualified in _EXECUTABLE_NAMES:
        return True
    parts = each.name.split(".")
    return not _EXECUTABLE_MODULES.isdisjoint(parts[:-1]) or not _ESCAPES.isdisjoint(parts)


def _rebuilds_a_function(each: PickledName, checkpoint: Checkpoint) -> bool:
    # cloudpickle stores functions with these names; they only describe code unless an executable name is used too.
    return (each.member == "data" or describes_settings(each, checkpoint)) and (
        each.module.startswith(_CODE_BY_VALUE)
        or each.qualified in ("types.CodeType", "types.FunctionType", "builtins.getattr", "__builtin__.getattr")
    )


def describes_settings(each: PickledName, checkpoint: Checkpoint) -> bool:
    """Tell whether a name belongs to settings that a library pickles into every file, or beside the weights."""
    if each.member == "data" and checkpoint.format == "sb3":
        return True
    return any(part.file == each.member and part.content in _PICKLED_OBJECTS for part in checkpoint.files)
