"""Start-up times: importing the facade, first use of its names, and the command line. Prints the best of ten runs."""

import subprocess
import sys
import time

CASES = {
    "bare interpreter": ["-c", "pass"],
    "import stepfall": ["-c", "import stepfall"],
    "from stepfall import load_cascade, load_machine": ["-c", "from stepfall import load_cascade, load_machine"],
    "stepfall --version": ["-m", "stepfall", "--version"],
    "stepfall show machine fusemax": ["-m", "stepfall", "show", "machine", "fusemax"],
    "stepfall show cascade attention-1pass": ["-m", "stepfall", "show", "cascade", "attention-1pass"],
}


def best_seconds(arguments: list[str], runs: int = 10) -> float:
    """Shortest wall time of a fresh interpreter with these arguments."""
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return min(times)


for name, arguments in CASES.items():
    print(f"{best_seconds(arguments) * 1e3:7.0f} ms  {name}")
