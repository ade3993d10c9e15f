"""Reads a text file in blocks of whole lines, so that memory does not grow with the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from checkpoint_doctor.sources import Source

BLOCK = 2 << 20
"""Bytes that are read at once. A block of numbers takes about ten times as much memory while it is parsed."""
LONGEST_LINE = 16 << 20
"""Bytes after which a line is given up: a log has none as long, and a file without line ends must not be read whole."""

OnRead = Callable[[int], None]
"""Called with the bytes read so far."""


def read_blocks(source: Source, start: int, on_read: OnRead | None, block: int = BLOCK) -> Iterator[bytes]:
    """Yield a source's bytes from an offset on, in blocks that end with a line; the last one as the file ends.

    A run that is still being written, or was killed, leaves its last line unfinished: the last block then does not end
    with a line end.

    Raises:
        UnreadableCheckpoint: the bytes cannot be read.
    """
    rest = b""
    offset = start
    while offset < source.size:
        content = source.read(offset, min(block, source.size - offset))
        offset += len(content)
        content = rest + content
        end = content.rfind(b"\n") + 1
        if end == 0 and len(content) > LONGEST_LINE:
            content, end = b"", 0
        rest = content[end:]
        if end:
            yield content[:end]
        if on_read:
            on_read(offset)
    if rest:
        yield rest
