"""Sunspots, a year ahead: how many will there be, given those of the last 11 years?

The counts of 1700 to 2008; what comes after 1930 is held out. A recurrent network in the way of
`other/autoregressive-process` in Flux's model zoo, compared with the year before and with the best
linear combination of those years. Reaches an error of 17.2 sunspots, where the linear combination
has 18.6, in about 36 s on two busy cores.

Needs the counts that statsmodels ships: pip install ".[examples]"
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np

from fluxkeras import (
    GRU,
    AdamW,
    Chain,
    Dense,
    mse,
    repeated,
    slidingwindow,
    train,
    unsqueeze,
)

if not (statsmodels := find_spec("statsmodels")):
    sys.exit("This reads the sunspots of statsmodels: pip install statsmodels")
FILE = Path(statsmodels.origin).parent / "datasets" / "sunspots" / "sunspots.csv"

YEARS = 11
STEPS = 400 if "--quick" in sys.argv else 800

keras.utils.set_random_seed(0)

year, spots = np.loadtxt(FILE, delimiter=",", skiprows=1, unpack=True)
windows = slidingwindow(spots / 100, size=YEARS + 1)
is_known = slidingwindow(year, size=YEARS + 1)[:, -1] <= 1930
x, y = windows[:, :-1], windows[:, -1:]


def last(steps):
    return steps[..., -1, :]


m = Chain(unsqueeze(dims=-1), GRU(1, 16), last, Dense(16, 1))


def loss(x, y):
    return mse(m(x), y)


def error(prediction):
    """The root of the mean squared error in the years after 1930, in sunspots."""
    return 100 * float(np.sqrt(np.mean((prediction - y[~is_known]) ** 2)))


print(train(loss, repeated((x[is_known], y[is_known]), STEPS), AdamW(0.005, λ=0.1)))

with_ones = np.column_stack([x, np.ones(len(x))])
solution, *_ = np.linalg.lstsq(with_ones[is_known], y[is_known], rcond=None)
linear, before = error(with_ones[~is_known] @ solution), error(x[~is_known, -1:])
ahead = error(m(x[~is_known]).numpy())

print(f"sunspots off, a year ahead: {ahead:.1f}")
print(f"linear {linear:.1f}, as the year before {before:.1f}")
assert ahead < linear < before
