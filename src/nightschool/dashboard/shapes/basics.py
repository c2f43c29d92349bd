"""Shapes of the API: what all parts of the API share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

Id = Annotated[int, Meta(ge=1, le=2**62)]
Step = Annotated[int, Meta(ge=0, le=2**62)]
Text = Annotated[str, Meta(max_length=200)]


class Trouble(Struct, kw_only=True):
    """Why something was not done: what is wrong and what to do, in a sentence. `kind` is a word for programs."""

    error: str
    kind: str


class Done(Struct, kw_only=True):
    """What was done, in a sentence."""

    said: str
