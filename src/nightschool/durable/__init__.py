"""The only part of nightschool that makes bytes durable: atomic files, sealed folders, locks.

Every function returns only when what it did survives a power cut, and raises StorageError, in plain words and with the
system's errno, when the disk refuses. All changes go through one replaceable object, `effects.Effects`.
"""

from nightschool.durable.effects import Effects, use
from nightschool.durable.files import (
    Copied,
    NotRegular,
    SourceChanged,
    copy_file,
    hash_file,
    is_wider,
    link_or_copy,
    make_dirs,
    protect,
    remove_file,
    replace_file,
    replace_link,
    write_file,
)
from nightschool.durable.folders import (
    MANIFEST,
    TRASH,
    Manifest,
    check,
    publish,
    read_manifest,
    remove_tree,
    seal,
    staging,
    sweep,
)
from nightschool.durable.lock import ELSEWHERE, Held, Lock, held, holder

__all__ = [
    "ELSEWHERE",
    "MANIFEST",
    "TRASH",
    "Copied",
    "Effects",
    "Held",
    "Lock",
    "Manifest",
    "NotRegular",
    "SourceChanged",
    "check",
    "copy_file",
    "hash_file",
    "held",
    "holder",
    "is_wider",
    "link_or_copy",
    "make_dirs",
    "protect",
    "publish",
    "read_manifest",
    "remove_file",
    "remove_tree",
    "replace_file",
    "replace_link",
    "seal",
    "staging",
    "sweep",
    "use",
    "write_file",
]
