"""Tests of the parent process, with small stand-ins for its children; `fakes` starts them."""
