"""Cold starts: the command's help, and `lifted fit --help` against importing Lightning alone.

python experiments/benchmarks/startup.py
"""

import argparse
import shutil
import statistics
import subprocess
import sys
import time


def seconds(command: list[str]) -> float:
    """Wall time of one run of a command."""
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Time the commands in turn, and print medians and the ratio of the last two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    lifted = shutil.which("lifted") or sys.exit("lifted is not installed in this environment")
    commands = {
        "lifted --help": [lifted, "--help"],
        "lifted data --help": [lifted, "data", "--help"],
        'python -c "import pytorch_lightning"': [sys.executable, "-c", "import pytorch_lightning"],
        "lifted fit --help": [lifted, "fit", "--help"],
    }
    for command in commands.values():
        seconds(command)  # files into the page cache
    times = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            times[name].append(seconds(command))
    print("| command | median of", rounds, "|\n|---|---|")
    for name, values in times.items():
        print(f"| `{name}` | {statistics.median(values):.2f} s |")
    imported, helped = list(times.values())[-2:]
    ratio = statistics.median(b / a for a, b in zip(imported, helped, strict=True))
    print(f"\n`lifted fit --help` takes {ratio:.2f} times the bare import.")


if __name__ == "__main__":
    main()
