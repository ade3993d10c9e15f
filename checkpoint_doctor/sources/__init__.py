"""Named bytes that can be read at any offset: files, memory, sections of them; and folders of files.

May import ``errors`` and ``text``.
"""

from checkpoint_doctor.sources.folder import Folder
from checkpoint_doctor.sources.local_file import FileSource
from checkpoint_doctor.sources.opening import is_folder, let_go_of_files, open_source
from checkpoint_doctor.sources.search import Unsearched
from checkpoint_doctor.sources.source import MemorySource, Section, Source, fetch_ahead, read_json

__all__ = [
    "FileSource",
    "Folder",
    "MemorySource",
    "Section",
    "Source",
    "Unsearched",
    "fetch_ahead",
    "is_folder",
    "let_go_of_files",
    "open_source",
    "read_json",
]
