"""Kernels need Triton; where it is not installed these tests are skipped, and say so."""

from importlib.util import find_spec

import pytest

if find_spec("triton") is None:
    collect_ignore = [
        "test_backward_kernels.py",
        "test_descriptors.py",
        "test_eight_bits.py",
        "test_generated_kernels.py",
        "test_handwritten.py",
        "test_grids.py",
        "test_compiled_kernels.py",
        "test_interpreter.py",
        "test_job.py",
        "test_kernel_library.py",
        "test_other_cascades.py",
        "test_useful_operations.py",
    ]


@pytest.fixture(autouse=True)
def kernels_in_tmp(tmp_path_factory, monkeypatch):
    """Generated files go to a folder of this run, never to the user's cache."""
    from gpu_backend import source

    folder = tmp_path_factory.getbasetemp() / "stepfall"
    folder.mkdir(exist_ok=True)
    monkeypatch.setattr(source, "cache_dir", lambda: folder)
