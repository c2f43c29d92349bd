"""nightschool: teaches one language model night after night, as one continuous run."""

__version__ = "0.1.0"
