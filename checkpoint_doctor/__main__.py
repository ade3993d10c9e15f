"""Run the command line as ``python -m checkpoint_doctor``."""

import os
import sys

# Python puts the working directory in front of the path here, unlike for the command. Nothing that lies among the
# checkpoints may be taken for a plugin or a library.
try:
    if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
        del sys.path[0]
except OSError:  # it does not exist any more
    pass

from checkpoint_doctor.cli import main

main()
