"""Tells the owner what happened: what is told is pure (`policy`, `morning`), sending is done by threads nobody waits for."""
