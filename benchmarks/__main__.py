"""The command line: `python -m benchmarks`, from the root of the repository."""

import argparse
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from benchmarks import chart
from benchmarks.bars import Results, bars_of
from benchmarks.cold import cold_ratios, in_fresh_process
from benchmarks.guard import guard_ratios
from benchmarks.peers import is_installed
from benchmarks.report import bars_list, table, write_json
from benchmarks.rows import Rows

ABOUT = """
fluxkeras: its form, x steps a call. by hand, fit: the fastest of all configurations, tried first.
JAX scan: its data lie stacked on the device beforehand. Medians of {repeats} rounds in turn; the
last column is the median of the rounds' ratios.
"""


def main() -> None:
    options = _options()
    repeats = options.repeats or (2 if options.quick else 7)
    results = Results()
    for row in Rows(options.only, repeats, options.quick):
        results.rows.append(row)
        print(table([row]).splitlines()[-1], file=sys.stderr, flush=True)
    if not options.quick and not options.only:
        results.cold = cold_ratios()
        results.calls = in_fresh_process("calls")
        results.guard = guard_ratios(repeats)
    bars = bars_of(results)

    print(table(results.rows), ABOUT.format(repeats=repeats), bars_list(bars), sep="\n")
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "benchmarks.json", _machine(), results, bars)
    if results.rows and is_installed("matplotlib"):
        chart.draw(results.rows, options.out / "benchmarks.png")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two rows, few steps, few repeats")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name contains it")
    parser.add_argument("--repeats", type=int, metavar="N", help="timed runs of each loop")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path(__file__).parent / "results",
        metavar="DIR",
        help="where benchmarks.json and benchmarks.png go",
    )
    return parser.parse_args()


def _machine() -> dict[str, Any]:
    modules = [m for m in ("tensorflow", "keras", "numpy", "jax", "torch") if is_installed(m)]
    return {
        "cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        **{module: importlib.metadata.version(module) for module in modules},
    }


if __name__ == "__main__":
    main()
