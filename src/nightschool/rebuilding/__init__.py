"""A ledger that was lost, made again from what lies beside it: checkpoints, copies of it, archive, prepared data.

    evidence.py   what is there, read and hashed; nothing is changed
    history.py    pure: which history the run has
    files.py      pure: a row for every file, and what could not be told of it
    writing.py    the new ledger, written under another name and put in place by one rename
    rebuild.py    all of it in order, with the machine kept out

Nothing is guessed in silence: what is not known is said, and a file of which it cannot be told whether it was to be
learned is held back, not trained.
"""
