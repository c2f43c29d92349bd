"""What another program's training left in a folder, and what it means here: reading only, and no torch."""

from nightschool.takeover.source import Source, find, read

__all__ = ["PLAN", "Source", "find", "read"]

PLAN = "adopt.json"
"""In `.nightschool/tmp`, for the child process that reads tensors: {"folder": what to take over, "settings": those that
are known, "given": the user's own}."""
