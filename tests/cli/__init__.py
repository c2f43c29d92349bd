"""Tests of the command line, run in this process through `main` where nothing else is asked for."""
