"""A pickle machine that builds data and executes no code.

It runs the opcodes of protocols 0 to 5. Globals that describe data come from a closed table; every other global becomes
a ``Global``, and whatever the pickle would have built with it an ``Inert`` object that records arguments and state. No
global is ever imported, and no method of an untrusted object is called.

Work and memory are bounded by the file's budget: every byte that is read and every object that is built is subtracted
from it, and so are copies, deep keys and nested archives.
"""

from __future__ import annotations

from typing import Any

from checkpoint_doctor.builtin.loaders._pickle.cursor import Cursor
from checkpoint_doctor.builtin.loaders._pickle.opcodes import ACTIONS, STOP
from checkpoint_doctor.builtin.loaders._pickle.state import MachineState
from checkpoint_doctor.errors import UnreadableCheckpoint


class Machine(MachineState):
    """Reads pickles. Several pickles of one file share the budget and the globals."""

    def load(self, cursor: Cursor) -> Any:
        """Read one pickle from the cursor's position on and return its object; the cursor ends up behind the pickle.

        Raises:
            UnreadableCheckpoint: it is truncated or damaged, or uses what checkpoints never need.
        """
        self.start(cursor)
        next_byte, find_action, stop = cursor.byte, ACTIONS.get, STOP
        opcode = -1
        try:
            while True:
                opcode = next_byte()
                self.opcodes += 1
                if opcode == stop:
                    self.charge()
                    return self.pop()
                action = find_action(opcode)
                if action is None:
                    raise self.damaged(f"byte {opcode:#04x} is not a pickle opcode")
                action(self)
        except UnreadableCheckpoint:
            raise
        except RecursionError:
            raise self.damaged("its structure is nested too deeply") from None
        except (TypeError, ValueError, IndexError, KeyError, AttributeError, ArithmeticError, UnicodeError) as error:
            raise self.damaged(f"opcode {opcode:#04x} does not fit the values before it ({_brief(error)})") from None
        except MemoryError:
            raise self.damaged("it needs more memory than is available") from None


def _brief(error: Exception) -> str:
    return str(error).split("\n")[0][:120] or type(error).__name__
