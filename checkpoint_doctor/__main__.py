"""Run the command line as ``python -m checkpoint_doctor``."""

from checkpoint_doctor.cli import main

main()
