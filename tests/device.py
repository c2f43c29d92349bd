"""Where the tests train: on the CPU, unless NIGHTSCHOOL_TEST_DEVICE names a GPU (`make test-gpu`)."""

import os

NAME = os.environ.get("NIGHTSCHOOL_TEST_DEVICE", "cpu")
