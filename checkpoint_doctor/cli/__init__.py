"""The command line: the only place that prints, opens outputs and exits."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run ``ckdoc`` and exit with the documented code.

    Nothing is imported before this is called: an interruption of the imports, and a part that is not installed, end in
    a sentence too.
    """
    # The reductions run on threads of our own; a second pool inside the linear algebra library only costs start-up.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from checkpoint_doctor.cli.running import run

        code = run()
    except KeyboardInterrupt:
        code, words = 130, "interrupted"
    except ImportError as error:
        code, words = 2, f"a part of ckdoc is missing: {error}\n  hint: install checkpoint-doctor anew"
    else:
        sys.exit(code)
    import contextlib

    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"ckdoc: {words}\n")
    sys.exit(code)
