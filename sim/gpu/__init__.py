"""Time of a GPU kernel: tiles over SMs in waves, in closed form for many kernels at once."""
