"""Settings of the unit tests."""

from __future__ import annotations

import os

from hypothesis import settings

# No deadline: how long an example takes says more about the machine's other users than about the code. In CI the same
# examples each time, so that a submission fails for what it changed.
settings.register_profile("harness", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("harness")
