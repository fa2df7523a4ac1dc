"""FuseMax (MICRO 2024) reproduced: five attention designs, end to end, area and energy (part of stepfall)."""
