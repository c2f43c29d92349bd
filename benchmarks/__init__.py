"""Measurements that back the figures in the documentation; see README.md in this folder."""
