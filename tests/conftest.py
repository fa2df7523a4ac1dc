"""What holds for all tests: random ones repeat, and nothing goes to the user's cache."""

import pytest
from hypothesis import settings

# The same examples are drawn each time, and no example is judged by its time.
settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def kernels_in_tmp(tmp_path_factory, monkeypatch):
    """Generated files go to a folder of this run, never to the user's cache."""
    from gpu_backend import source

    folder = tmp_path_factory.getbasetemp() / "stepfall"
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(source, "cache_dir", lambda: folder)
