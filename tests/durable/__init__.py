"""Tests of the module that makes bytes durable; `crash` is of use to any test of something that has to survive."""
