"""Plots of training, drawn with matplotlib, which is imported when something is drawn."""

import importlib
import io
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["plot"]

MEANS = 50  # points of the curve of means: enough to see where it goes, too few to see noise
MOST_SINGLE = 2000  # steps that are drawn one by one: more would be a block of ink
RANGES = 500  # in which more steps are summed up
MOST_MARKED = 30  # points that are marked, so that one by itself is seen
MOST_BOUNDARIES = 50  # of epochs
SPAN = 100  # the greatest mean over the least, from which an axis is logarithmic

EACH, MEAN, FAULT = "#a6c8e4", "#1f4e79", "#c0392b"  # colours
PANEL_INCHES = 8.0, 2.6


def plot(
    history: Any,
    *names: str,
    per: str = "step",
    smooth: int | None = None,
    path: str | os.PathLike[str] | None = None,
) -> list[Any]:
    """Draw the losses of training, and what else was recorded, one above the other.

    A dark curve runs through the means of each `smooth` steps, before the losses of the single
    steps in a light colour; where there are more than 2000, before the range that they are in. The
    axis is logarithmic where all are positive and the means span a factor of 100. Steps whose value
    is not finite are left out, and marked at the bottom. The learning rate is drawn as well if the
    objective returns it: `(loss, {"learning_rate": opt.learning_rate})`.

    Args:
        history: what `train` returned, or a list of such, one for each epoch.
        *names: what to draw, such as `"loss"`; by default, all that is a number in each step.
        per: "step"; or "epoch", to draw the mean of each history, before its range.
        smooth: of how many steps a mean is taken; 1 for no means. By default, so many that there
            are 50 means.
        path: a file to save the picture to, whose ending says in which format. Otherwise it is
            shown by a notebook, or by `matplotlib.pyplot.show()`.

    Returns:
        matplotlib's `Axes`, a list with one for each name, to be changed at will.

    Raises:
        ModuleNotFoundError: matplotlib is not installed: `pip install "fluxkeras[plot]"`.
        ValueError: there is no step, or an argument is not what is meant.
        KeyError: nothing was recorded under a name.

    Example:
        >>> m = Chain(Dense(2, 1))
        >>> loss = lambda x, y: mse(m(x), y)
        >>> batch, opt = (np.ones((8, 2)), np.ones((8, 1))), SGD(0.1)
        >>> histories = [train(loss, [batch] * 20, opt, progress=False) for epoch in range(3)]
        >>> (axes,) = plot(histories, path=folder / "loss.png")
        >>> axes.get_xlabel(), axes.get_ylabel()
        ('step', 'loss')
        >>> (axes,) = plot(histories, per="epoch", path=folder / "epochs.svg")

    Source: Keras's `History`, which leaves drawing to its user.
    """
    histories = [h for h in (history if isinstance(history, list | tuple) else [history]) if len(h)]
    if not histories:
        raise ValueError("plot expects the histories of some steps, got none.")
    if per not in ("step", "epoch"):
        raise ValueError(f'plot expects per="step" or per="epoch", got {per!r}.')
    if smooth is not None and (not isinstance(smooth, int | np.integer) or smooth < 1):
        raise ValueError(
            f"plot expects as smooth of how many steps to take the mean, a whole number from 1, "
            f"got {smooth!r}."
        )
    lengths = [len(h) for h in histories]
    return _drawn(_chosen(_recorded(histories), names), lengths, per, smooth, path)


def png(losses: np.ndarray, lengths: list[int]) -> bytes:
    """The picture that `plot` draws of the losses of epochs of such lengths."""
    file = io.BytesIO()
    _drawn({"loss": losses}, lengths, path=file)
    return file.getvalue()


def plot_sweep(sweep: Any, path: str | os.PathLike[str] | None = None) -> list[Any]:
    """Draw the losses of a `Sweep` over the learning rates."""
    figure = _figure(1, path)
    axis = figure.subplots()
    axis.plot(sweep.rates, _finite(sweep.losses), color=EACH, label="each step")
    axis.plot(sweep.rates, sweep.smoothed, color=MEAN, label="mean with its neighbours")
    if sweep.suggestion is not None:
        label = f"steepest descent, {sweep.suggestion:.2g}"
        axis.axvline(sweep.suggestion, color=FAULT, linestyle="--", label=label)
    axis.set_xscale("log")
    # What comes after the losses were least may be many times as high.
    fall = sweep.losses[: int(np.argmin(sweep.smoothed)) + 1]
    low, high = float(np.min(sweep.losses)), float(np.max(fall))
    if high > low:
        axis.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
    axis.set_title(f"{len(sweep.losses):,} steps, each at a higher learning rate", loc="left")
    axis.set_xlabel("learning rate")
    axis.set_ylabel("loss")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize="small")
    if path is not None:
        figure.savefig(path)
    return [axis]


def _drawn(
    chosen: dict[str, np.ndarray],
    lengths: list[int],
    per: str = "step",
    smooth: int | None = None,
    path: Any = None,
) -> list[Any]:
    figure = _figure(len(chosen), path)
    axes = list(figure.subplots(len(chosen), 1, sharex=True, squeeze=False)[:, 0])
    for axis, (name, values) in zip(axes, chosen.items(), strict=True):
        if per == "epoch":
            _draw_epochs(axis, values, lengths)
        else:
            _draw_steps(axis, values, lengths, smooth)
        _finish(axis, name)
    axes[0].set_title(_title(lengths), loc="left")
    axes[-1].set_xlabel(per)
    if path is not None:
        figure.savefig(path)
    return axes


def _figure(panels: int, path: Any) -> Any:
    """A new figure, which only `path` keeps from being shown."""
    width, height = PANEL_INCHES
    options = {"figsize": (width, height * panels + 0.6), "layout": "constrained"}
    try:
        if path is not None:
            return importlib.import_module("matplotlib.figure").Figure(**options)
        return importlib.import_module("matplotlib.pyplot").figure(**options)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        raise ModuleNotFoundError(
            'plot draws with matplotlib, which is not installed: pip install "fluxkeras[plot]"',
            name="matplotlib",
        ) from None


def _recorded(histories: Sequence[Any]) -> dict[str, np.ndarray]:
    """The values of all steps, by name, of what is a number in each."""
    tables = [history.to_dict() for history in histories]
    recorded = {}
    for name in dict.fromkeys(itertools.chain(*tables)):
        columns = [
            _numbers(table.get(name, [None] * len(history)))
            for table, history in zip(tables, histories, strict=True)
        ]
        if all(column is not None for column in columns):
            recorded[name] = np.concatenate(columns)
    return recorded


def _numbers(values: list[Any]) -> Any:
    """As an array; None where they are no numbers."""
    try:
        array = np.asarray(values, np.float64)  # None becomes NaN
    except (TypeError, ValueError):
        return None
    return array if array.ndim == 1 else None


def _chosen(recorded: dict[str, np.ndarray], names: Sequence[str]) -> dict[str, np.ndarray]:
    for name in names:
        if name not in recorded:
            raise KeyError(
                f"plot expects names of numbers that were recorded, got {name!r}. There are "
                f"{', '.join(map(repr, recorded))}."
            )
    return {name: recorded[name] for name in names or recorded}


def _draw_steps(axis: Any, values: np.ndarray, lengths: list[int], smooth: int | None) -> None:
    steps = len(values)
    width = smooth or max(1, steps // MEANS)
    each = EACH if width > 1 else MEAN
    if steps <= MOST_SINGLE:
        is_sparse = steps <= MOST_MARKED or not np.isfinite(values).all()
        marker = "." if is_sparse else None
        axis.plot(_finite(values), color=each, linewidth=1, marker=marker, label="each step")
    else:
        places, (_, least, greatest) = _groups(values, -(-steps // RANGES))
        label = "range of the steps"
        axis.fill_between(places, least, greatest, color=EACH, linewidth=0, label=label)
    means = values
    if width > 1:
        places, (means, _, _) = _groups(values, width)
        marker = "." if len(means) <= MOST_MARKED else None
        axis.plot(places, means, color=MEAN, marker=marker, label=f"mean of each {width:,} steps")
    _scale(axis, values, means)
    _mark_faults(axis, np.flatnonzero(~np.isfinite(values)))
    boundaries = np.cumsum(lengths)[:-1]
    if len(boundaries) <= MOST_BOUNDARIES:
        for boundary in boundaries:
            axis.axvline(boundary - 0.5, color="#cccccc", linewidth=0.8, zorder=0)


def _draw_epochs(axis: Any, values: np.ndarray, lengths: list[int]) -> None:
    starts = np.cumsum([0, *lengths[:-1]])
    means, least, greatest = _summaries(values, starts)
    epochs = np.arange(1, len(lengths) + 1)
    marker = "." if len(epochs) <= MOST_MARKED else None
    width = min(8.0, 400 / len(epochs))
    axis.vlines(epochs, least, greatest, EACH, linewidth=width, label="range of the steps")
    axis.plot(epochs, means, color=MEAN, marker=marker, label="mean of the steps")
    _scale(axis, values, means)
    _mark_faults(axis, epochs[~np.isfinite(means)])


def _groups(values: np.ndarray, width: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The middles of groups of so many steps, and their summaries."""
    starts = np.arange(0, len(values), width)
    ends = np.minimum(starts + width, len(values))
    return (starts + ends - 1) / 2, _summaries(values, starts)


def _summaries(values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, ...]:
    """The mean, the least and the greatest of the finite values of each group; NaN without any."""
    known = _finite(values)
    counts = np.add.reduceat(np.isfinite(values).astype(int), starts)
    sums = np.add.reduceat(np.nan_to_num(known, nan=0.0), starts)
    means = np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)
    return means, np.fmin.reduceat(known, starts), np.fmax.reduceat(known, starts)


def _finite(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.nan)


def _scale(axis: Any, values: np.ndarray, means: np.ndarray) -> None:
    values, means = values[np.isfinite(values)], means[np.isfinite(means)]
    if len(values) and values.min() > 0 and means.max() > SPAN * means.min():
        axis.set_yscale("log")


def _mark_faults(axis: Any, places: np.ndarray) -> None:
    if len(places):
        shown = places[:: -(-len(places) // RANGES)]
        axis.plot(
            shown, np.full(len(shown), 0.02), "|", color=FAULT, clip_on=False,
            transform=axis.get_xaxis_transform(), label=f"not finite ({len(places):,})",
        )  # fmt: skip


def _finish(axis: Any, name: str) -> None:
    axis.set_ylabel(name)
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    axis.xaxis.set_major_formatter(lambda place, _: f"{place:,.0f}")
    axis.spines[["top", "right"]].set_visible(False)
    if len(axis.get_legend_handles_labels()[0]) > 1:
        axis.legend(frameon=False, fontsize="small")


def _title(lengths: list[int]) -> str:
    steps = f"{sum(lengths):,} steps" if sum(lengths) > 1 else "1 step"
    return steps if len(lengths) == 1 else f"{len(lengths):,} epochs, {steps}"
