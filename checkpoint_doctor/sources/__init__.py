"""Named bytes that can be read at any offset: files, memory, and sections of them.

May import ``errors`` and ``text``.
"""

from checkpoint_doctor.sources.local_file import FileSource
from checkpoint_doctor.sources.source import MemorySource, Section, Source

__all__ = ["FileSource", "MemorySource", "Section", "Source"]
