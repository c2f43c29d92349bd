"""Rendering a chat template in the common case, quickly: what transformers makes of the same, in a third of its time.

`render_jinja_template` copies all it is given, so that a template sees nothing but plain data, and looks up the globals
of the template one by one. Messages in which everything is a string are plain as they are, and the sandbox lets no
template change them.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys of a message that transformers hands to templates as the reasoning before the answer."""

_SCALARS = frozenset((str, int, float, bool, type(None)))


def quickly(
    text: str, messages: list[dict[str, Any]], variables: Mapping[str, Any], mark: bool, prompt: bool
) -> tuple[str, list[tuple[int, int]]] | None:
    """Render messages, without tools.

    Args:
        text: the template.
        messages: of the chat.
        variables: for the template.
        mark: whether to tell what stands between the template's generation markers.
        prompt: whether to end with the beginning of an answer.

    Returns:
        the text and, with `mark`, the (start, stop) characters between markers; None where transformers must be asked:
        there is something that is no string, or the template refuses.
    """
    for message in messages:
        for key, value in message.items():
            if type(value) is not str or key in REASONING:
                return None
    template = _compiled(text)
    if template is None or not template.takes(variables):
        return None
    blocks: list[str] = []
    spans: list[tuple[int, int]] = []
    try:
        context = template.context(messages, variables, prompt)
        if mark:
            with template.environment.activate_tracker(blocks, spans):
                # One by one: the tracker looks at what is there so far.
                for block in template.root(context):
                    blocks.append(block)
        else:
            blocks.extend(template.root(context))
    except Exception:
        return None
    return "".join(blocks), spans


class _Compiled:
    """A template as transformers compiles it, with its globals in one plain dictionary."""

    def __init__(self, template: Any, taken: frozenset[str]) -> None:
        self.environment = template.environment
        self.root = template.root_render_func
        self._globals = dict(template.globals)
        self._taken = taken | self._globals.keys()
        self._name, self._blocks = template.name, template.blocks

    def takes(self, variables: Mapping[str, Any]) -> bool:
        """Whether variables are plain, and none has a name that means something else."""
        return self._taken.isdisjoint(variables) and all(type(value) in _SCALARS for value in variables.values())

    def context(self, messages: list[dict[str, Any]], variables: Mapping[str, Any], prompt: bool) -> Any:
        """What `Template.new_context` makes of them."""
        seen = {
            **self._globals, "messages": messages, "tools": None, "documents": None, "add_generation_prompt": prompt,
            **variables,
        }  # fmt: skip
        return self.environment.context_class(self.environment, seen, self._name, self._blocks, globals=self._globals)


@lru_cache(maxsize=8)
def _compiled(text: str) -> _Compiled | None:
    try:
        from transformers.utils import chat_template_utils as theirs

        functions = (theirs.render_jinja_template, theirs._render_with_assistant_indices)
        taken = frozenset(name for function in functions for name in inspect.signature(function).parameters)
        return _Compiled(theirs._compile_jinja_template(text), taken)
    except Exception:
        return None  # another version of the library, or no template at all: transformers says what is wrong
