"""Random tests repeat: Hypothesis draws the same examples each time, and no example is judged by its time."""

from hypothesis import settings

settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")
