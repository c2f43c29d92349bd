"""Tells the owner what happened. What is told, and when, is pure; it is sent by threads that nobody waits for."""
