"""From a dropped file to a prepared dataset: watch the inbox, archive, read rows, tokenise, pack.

Nothing is imported here, so that watching the inbox costs the supervisor neither torch nor transformers.
"""
