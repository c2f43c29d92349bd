"""Giving away what was learned: an adapter or a model in a folder of its own, with a card that says where it is from.

    facts.py    what is known of a saved state: lineage, files learned, settings
    card.py     pure: those facts as the README.md that the Hub shows
    folder.py   the folder: checked before, filled beside its place, complete or not there
    asking.py   which process does it: this one for an adapter, a child with torch for a model

Imports no torch: merging and cutting into shards is a job of `training`.
"""
