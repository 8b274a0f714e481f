"""docs/flux_to_fluxkeras.md, held to the package."""

import re
from pathlib import Path

import pytest

import fluxkeras

TABLE = Path(__file__).parents[1] / "docs" / "flux_to_fluxkeras.md"
NONE = "—"


def rows() -> list[tuple[str, str, str]]:
    cells = [
        tuple(cell.strip().strip("`") for cell in line.strip("|").split("|"))
        for line in TABLE.read_text(encoding="utf-8").splitlines()
        if line.startswith("|") and not re.match(r"\|(-|\s*Flux\s*\|)", line)
    ]
    assert all(len(row) == 3 for row in cells)
    return cells


ROWS = rows()


@pytest.mark.parametrize("row", [r for r in ROWS if r[1] != NONE], ids=lambda row: row[1])
def test_a_row_names_what_there_is(row):
    value = fluxkeras
    for part in row[1].split("."):
        value = getattr(value, part)
    assert callable(value)
    assert row[1].partition(".")[0] in fluxkeras.__all__


@pytest.mark.parametrize("row", [r for r in ROWS if r[1] == NONE], ids=lambda row: row[0])
def test_what_is_left_out_says_why(row):
    assert len(row[2]) > len("retired")


def test_every_public_name_has_a_row():
    assert set(fluxkeras.__all__) - {row[1] for row in ROWS} == set()


def test_there_is_one_row_for_a_name_of_flux():
    names = [row[0] for row in ROWS if row[0] != NONE]
    assert len(names) == len(set(names))
