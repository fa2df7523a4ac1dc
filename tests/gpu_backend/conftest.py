"""Kernels need Triton; where it is not installed these tests are skipped, and say so."""

from importlib.util import find_spec

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
