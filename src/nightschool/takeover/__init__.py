"""What another program's training left in a folder, and what it means here: reading only, and no torch."""

from nightschool.takeover.source import Source, find, read

__all__ = ["Source", "find", "read"]
