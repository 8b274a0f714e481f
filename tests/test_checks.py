import pytest

from fluxkeras.checks import NonFiniteError, locate, undressed, warn


class Dressed(ValueError):
    pass


def dress(message, error):
    """Raise a copy as Keras does, and return it."""
    try:
        try:
            raise error
        except ValueError as inner:
            raise type(inner)(f"{message} {inner}") from None
    except ValueError as outer:
        return outer


def test_an_error_is_undressed_to_the_one_raised_first():
    first = Dressed("too wide")
    twice = dress("in user code:", dress("Exception encountered when calling f.", first))

    assert undressed(twice) is first


def test_an_error_that_repeats_another_is_not_a_dressing():
    error = dress("my own words:", ValueError("too wide"))

    assert undressed(error) is error


def test_a_dressing_without_the_error_inside_is_left():
    error = ValueError("in user code: nothing below")

    assert undressed(error) is error


def test_a_place_is_put_into_the_message():
    error = ValueError("too wide")

    locate(error, "batch 3")

    assert str(error) == "batch 3: too wide"


def test_a_place_does_not_spoil_an_error_with_a_message_of_its_own():
    class Odd(Exception):
        def __str__(self):
            return f"code {self.args[0]}"

    error = Odd("7")

    locate(error, "batch 3")

    assert str(error) == "code 7"
    assert getattr(error, "__notes__", ["batch 3"]) == ["batch 3"]


def test_a_warning_points_at_the_caller():
    with pytest.warns(UserWarning, match="careful") as caught:
        warn("careful")

    assert caught[0].filename == __file__


@pytest.mark.parametrize("kind", [ValueError, FloatingPointError, ArithmeticError])
def test_a_loss_that_is_not_finite_is_caught_as_any_of_its_kinds(kind):
    with pytest.raises(kind, match="nan"):
        raise NonFiniteError("the loss is nan")
