"""What a row means: a chat, a prompt with its completion, or plain text. Told by its keys, row by row.

    name                  keys                                                    becomes
    messages              messages (role/content, tools, tool_calls)              a chat
    sharegpt              conversations (from/value)                              a chat
    prompt+completion     prompt, completion: both strings                        plain text, completion learned
                          prompt, completion: lists of messages                   a chat, completion learned
    alpaca                instruction, input, output, history, system             a chat
    question+answer       question, answer (and `QUESTIONS`)                      a chat
    text                  text                                                    plain text, all of it learned

Where a row has the keys of several, the first in this list counts; keys that were mapped by hand come before that.
Other keys are left alone, except those that would change what is learned: they are named instead of being passed over.
"""

from nightschool.intake.shapes.columns import check_columns, map_columns
from nightschool.intake.shapes.kinds import (
    ALPACA,
    MESSAGES,
    PAIR,
    QUESTION,
    SHAREGPT,
    TEXT,
    Chat,
    Pair,
    RowError,
    Shape,
    Text,
)
from nightschool.intake.shapes.reading import recognise
from nightschool.intake.shapes.repairs import CALLS_READ, LEADING_DROPPED, MERGED, REASONING_LEFT_OUT, ROLES_TRANSLATED

__all__ = [
    "ALPACA",
    "CALLS_READ",
    "LEADING_DROPPED",
    "MERGED",
    "MESSAGES",
    "PAIR",
    "QUESTION",
    "REASONING_LEFT_OUT",
    "ROLES_TRANSLATED",
    "SHAREGPT",
    "TEXT",
    "Chat",
    "Pair",
    "RowError",
    "Shape",
    "Text",
    "check_columns",
    "map_columns",
    "recognise",
]
