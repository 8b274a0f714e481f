import re
import sys

import numpy as np
import pytest

from fluxkeras import History, plot
from fluxkeras.training import plotting
from fluxkeras.training.tools import Sweep

matplotlib = pytest.importorskip("matplotlib")
pyplot = pytest.importorskip("matplotlib.pyplot")

EACH, MEAN, FAULT = plotting.EACH, plotting.MEAN, plotting.FAULT


@pytest.fixture(autouse=True)
def without_a_window():
    matplotlib.use("Agg")
    yield
    pyplot.close("all")


def recorded(losses, **aux):
    history = History()
    aux = {name: np.asarray(values) for name, values in aux.items()}
    history.extend(np.asarray(losses, np.float32), aux or None)
    return history


def curve(axis, colour):
    (line,) = [line for line in axis.get_lines() if line.get_color() == colour]
    return line


def labels(axis):
    return axis.get_legend_handles_labels()[1]


def test_few_steps_are_drawn_one_by_one(tmp_path):
    losses = [3.0, 2.0, 1.5]

    (axis,) = plot(recorded(losses), path=tmp_path / "loss.png")

    np.testing.assert_array_equal(curve(axis, MEAN).get_xdata(), [0, 1, 2])
    np.testing.assert_array_equal(curve(axis, MEAN).get_ydata(), losses)
    assert curve(axis, MEAN).get_marker() == "."
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("step", "loss")
    assert axis.get_title("left") == "3 steps"
    assert axis.get_legend() is None
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_a_single_step_is_a_point(tmp_path):
    (axis,) = plot(recorded([2.0]), path=tmp_path / "loss.svg")

    assert curve(axis, MEAN).get_marker() == "."
    assert axis.get_title("left") == "1 step"
    low, high = axis.get_xlim()
    assert [place for place in axis.get_xticks() if low <= place <= high] == [0]


def test_means_are_of_groups_of_steps(tmp_path):
    losses = np.arange(200.0) + 1

    (axis,) = plot(recorded(losses), path=tmp_path / "loss.png")

    np.testing.assert_array_equal(curve(axis, EACH).get_ydata(), losses)
    np.testing.assert_array_equal(curve(axis, MEAN).get_xdata(), np.arange(50) * 4 + 1.5)
    np.testing.assert_array_equal(curve(axis, MEAN).get_ydata(), np.arange(50) * 4 + 2.5)
    assert labels(axis) == ["each step", "mean of each 4 steps"]
    assert axis.get_legend() is not None


@pytest.mark.parametrize(("smooth", "means"), [(3, [2, 5, 7.5]), (8, [4.5]), (1, range(1, 9))])
def test_how_many_steps_a_mean_is_of_may_be_given(tmp_path, smooth, means):
    (axis,) = plot(recorded(np.arange(1, 9)), smooth=smooth, path=tmp_path / "loss.png")

    np.testing.assert_array_equal(curve(axis, MEAN).get_ydata(), means)


def test_many_steps_are_drawn_as_the_range_that_they_are_in(tmp_path):
    losses = np.tile([1.0, 2.0, 3.0, 4.0], 250_000)

    (axis,) = plot(recorded(losses), path=tmp_path / "loss.png")

    (band,) = axis.collections
    (box,) = [path.get_extents() for path in band.get_paths()]
    assert (box.ymin, box.ymax) == (1, 4)
    assert len(curve(axis, MEAN).get_ydata()) == 50
    np.testing.assert_array_equal(curve(axis, MEAN).get_ydata(), 2.5)
    assert labels(axis) == ["range of the steps", "mean of each 20,000 steps"]
    assert axis.xaxis.get_major_formatter()(400_000, 0) == "400,000"
    assert axis.get_title("left") == "1,000,000 steps"


def test_other_values_have_panels_of_their_own(tmp_path):
    history = recorded([3.0, 2.0], acc=[0.1, 0.9], confusion=np.zeros((2, 2, 2)), text=["a", "b"])

    axes = plot(history, path=tmp_path / "a.png")

    assert [axis.get_ylabel() for axis in axes] == ["loss", "acc"]
    np.testing.assert_array_equal(curve(axes[1], MEAN).get_ydata(), [0.1, 0.9])
    assert [axis.get_xlabel() for axis in axes] == ["", "step"]
    assert [axis.get_title("left") for axis in axes] == ["2 steps", ""]


def test_names_choose_what_is_drawn(tmp_path):
    history = recorded([3.0, 2.0], acc=[0.1, 0.9], learning_rate=[1e-3, 1e-4])

    axes = plot(history, "learning_rate", "loss", path=tmp_path / "a.png")

    assert [axis.get_ylabel() for axis in axes] == ["learning_rate", "loss"]


def test_epochs_follow_each_other_with_lines_between(tmp_path):
    epochs = [recorded([4.0, 3.0, 2.0]), recorded([]), recorded([1.5, 1.0])]

    (axis,) = plot(epochs, path=tmp_path / "a.png")

    np.testing.assert_array_equal(curve(axis, MEAN).get_ydata(), [4, 3, 2, 1.5, 1])
    np.testing.assert_array_equal(curve(axis, "#cccccc").get_xdata(), [2.5, 2.5])
    assert axis.get_title("left") == "2 epochs, 5 steps"


def test_values_that_some_epochs_lack_are_left_out_there(tmp_path):
    axes = plot([recorded([4.0]), recorded([3.0], acc=[0.5])], path=tmp_path / "a.png")

    np.testing.assert_array_equal(curve(axes[1], MEAN).get_ydata(), [np.nan, 0.5])


def test_a_point_for_an_epoch_is_its_mean(tmp_path):
    epochs = [recorded([4.0, 3.0, 2.0]), recorded([1.5, 0.5]), recorded([np.nan])]

    (axis,) = plot(epochs, per="epoch", path=tmp_path / "a.png")

    np.testing.assert_array_equal(curve(axis, MEAN).get_xdata(), [1, 2, 3])
    np.testing.assert_array_equal(curve(axis, MEAN).get_ydata(), [3, 1, np.nan])
    np.testing.assert_array_equal(curve(axis, FAULT).get_xdata(), [3])
    assert axis.get_xlabel() == "epoch"
    assert labels(axis) == ["range of the steps", "mean of the steps", "not finite (1)"]


@pytest.mark.parametrize("steps", [7, 300, 5000])
def test_steps_that_are_not_finite_are_left_out_and_marked(tmp_path, steps):
    losses = np.ones(steps)
    losses[[1, 3, 4]] = np.nan, np.inf, -np.inf

    (axis,) = plot(recorded(losses), path=tmp_path / "a.png")

    np.testing.assert_array_equal(curve(axis, FAULT).get_xdata(), [1, 3, 4])
    assert labels(axis)[-1] == "not finite (3)"
    drawn = curve(axis, MEAN).get_ydata()
    assert np.all(np.isnan(drawn) | (drawn == 1)) and np.isfinite(drawn).sum() >= 4


def test_no_finite_value_at_all_is_drawn(tmp_path):
    (axis,) = plot(recorded(np.full(5000, np.nan)), path=tmp_path / "a.png")

    assert labels(axis)[-1] == "not finite (5,000)"
    assert len(curve(axis, FAULT).get_xdata()) == 500


@pytest.mark.parametrize(
    ("losses", "scale"),
    [([1000.0, 1.0], "log"), ([100.0, 1.0], "linear"), ([1000.0, 0.0], "linear"),
     ([1000.0, -1.0], "linear"), ([1000.0, np.nan, 1.0], "log"), ([np.nan], "linear")],
)  # fmt: skip
def test_an_axis_is_logarithmic_where_the_values_span_much(tmp_path, losses, scale):
    (axis,) = plot(recorded(losses), path=tmp_path / "a.png")

    assert axis.get_yscale() == scale


def test_without_a_path_the_picture_is_pyplots():
    (axis,) = plot(recorded([1.0, 2.0]))

    assert axis.figure is pyplot.gcf()


def test_a_history_plots_itself(tmp_path):
    history = recorded(np.arange(1, 9), acc=np.arange(8))

    (axis,) = history.plot("acc", smooth=4, path=tmp_path / "a.pdf")

    np.testing.assert_array_equal(curve(axis, MEAN).get_ydata(), [1.5, 5.5])
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


def test_a_sweep_is_drawn_over_its_rates(tmp_path):
    losses = np.array([3.0, 3.0, 2.9, 2.0, 1.0, 0.9, 50.0, 900.0])
    sweep = Sweep(np.geomspace(1e-6, 10, 8), losses)

    (axis,) = sweep.plot(tmp_path / "a.png")

    np.testing.assert_array_equal(curve(axis, EACH).get_ydata(), losses)
    np.testing.assert_array_equal(curve(axis, MEAN).get_ydata(), sweep.smoothed)
    assert list(curve(axis, FAULT).get_xdata()) == [sweep.suggestion] * 2
    assert axis.get_xscale() == "log"
    assert axis.get_ylim()[1] < 5  # not 900
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("learning rate", "loss")
    assert labels(axis)[-1].startswith("steepest descent, ")


@pytest.mark.parametrize("losses", [[1.0], [1.0, 1.0, 1.0], [1.0, 2.0, 3.0]])
def test_a_sweep_without_a_suggestion_is_drawn(tmp_path, losses):
    sweep = Sweep(np.geomspace(1e-6, 1e-4, len(losses)), np.array(losses))

    (axis,) = sweep.plot(tmp_path / "a.png")

    assert labels(axis) == ["each step", "mean with its neighbours"]


# --- What does not fit ----------------------------------------------------------------------------


def test_wrong_arguments_are_refused():
    history = recorded([1.0, 2.0], acc=[0, 1])
    with pytest.raises(ValueError, match=r"plot expects the histories of some steps, got none\."):
        plot([])
    with pytest.raises(ValueError, match=r"plot expects the histories of some steps, got none\."):
        plot(History())
    message = 'plot expects per="step" or per="epoch", got \'day\'.'
    with pytest.raises(ValueError, match=re.escape(message)):
        plot(history, per="day")
    for smooth in 0, 1.5:
        with pytest.raises(ValueError, match=f"take the mean, a whole number from 1, got {smooth}"):
            plot(history, smooth=smooth)
    message = (
        "plot expects names of numbers that were recorded, got 'error'. There are 'loss', 'acc'."
    )
    with pytest.raises(KeyError, match=message):
        plot(history, "error")


@pytest.mark.parametrize("path", [None, "loss.png"])
def test_a_missing_matplotlib_is_told_with_its_extra(monkeypatch, path):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("sys.meta_path", [Blocker, *sys.meta_path])
    message = 'plot draws with matplotlib, which is not installed: pip install "fluxkeras[plot]"'
    with pytest.raises(ModuleNotFoundError, match=re.escape(message)):
        plot(recorded([1.0]), path=path)


class Blocker:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
