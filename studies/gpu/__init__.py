"""GPU kernels: measured rows, models of their time, calibration and validation."""
