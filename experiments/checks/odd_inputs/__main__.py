"""Wrong and odd inputs of all commands, made by rules; each rule says beforehand what the answer is to be.

python -m experiments.checks.odd_inputs                  # all, in one process
python -m experiments.checks.odd_inputs --rule YAML --show

A rule changes what is right in one place: a shipped YAML, an option, a file that is read. The answer is that the
command runs (exit code 0), or that it is refused: exit code 2, and one line on the standard error stream that begins
with `lifted`, holds certain words, and comes from no traceback; or that it fails: exit code 1, and such a line. Runs
take two steps, on 12 classes of 4 drawn images.
"""

import argparse
import itertools
import sys
import time

from experiments.checks.odd_inputs.ask import answer, bounded, fault, working_folder
from experiments.checks.odd_inputs.right import RULES


def main() -> int:
    """Ask all, and print a table of the rules; the exit code says whether every answer was as stated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rule", default="", help="only rules with this in their title")
    parser.add_argument("--every", type=int, default=1, help="of each rule's inputs only every so many")
    parser.add_argument("--show", action="store_true", help="print each answer")
    options = parser.parse_args()
    totals: list[tuple[str, int, int, float]] = []
    with working_folder():
        for title, make in RULES.items():
            if options.rule not in title:
                continue
            began, count, wrong = time.monotonic(), 0, 0
            for given in itertools.islice(make(), 0, None, options.every):
                with bounded():
                    code, _, told = answer(given)
                found = fault(given, code, told)
                count, wrong = count + 1, wrong + (found is not None)
                if found or options.show:
                    line = " ".join(map(repr, given.arguments))
                    print(
                        f"{'NOT AS STATED' if found else code}  {line[-200:]}\n    {found or told.strip()[-300:]}",
                        flush=True,
                    )
            totals.append((title, count, wrong, time.monotonic() - began))
    print("\n| rule | inputs | as stated | not as stated | seconds |\n|:--|--:|--:|--:|--:|")
    totals.append(("all", *(sum(column) for column in zip(*(row[1:] for row in totals), strict=True))))  # type: ignore[arg-type]
    for title, count, wrong, seconds in totals:
        print(f"| {title} | {count} | {count - wrong} | {wrong} | {seconds:.0f} |")
    return int(totals[-1][2] > 0)


if __name__ == "__main__":
    sys.exit(main())
