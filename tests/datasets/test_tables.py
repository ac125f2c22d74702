"""Reading CSV files, which the builders of published problems share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from greenopt.datasets._tables import read_table
from greenopt.errors import InputError


def write(folder: Path, text: str) -> Path:
    """A file of this text."""
    path = folder / "table.csv"
    path.write_text(text)
    return path


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(allow_infinity=False, allow_nan=True), min_size=1, max_size=30))
def test_numbers_survive(tmp_path: Path, values: list[float]) -> None:
    """Every float, and NaN where it is allowed."""
    path = write(tmp_path, "i,x\n" + "".join(f"0,{value!r}\n" for value in values))
    np.testing.assert_array_equal(read_table(path).numbers(["x"], unknown=True)[:, 0], values)


def test_problems_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    """Row by row, whichever column was read first, and only the first few."""
    rows = "".join(f"{i},x\n" for i in range(3)) + "y,1\n" + "z,2\n" * 4
    with pytest.raises(InputError) as caught:
        read_table(write(tmp_path, "a,b\n" + rows)).numbers(["a", "b"])
    places = [problem.path for problem in caught.value.problems]
    assert places == [
        "data row 1, column 'b'",
        "data row 2, column 'b'",
        "data row 3, column 'b'",
        "data row 4, column 'a'",
        "data row 5, column 'a'",
        "file",
    ]
    assert caught.value.problems[-1].message == "and 3 more like these"


def test_chosen_rows_keep_their_numbers(tmp_path: Path) -> None:
    """A cell is named by its row in the file."""
    table = read_table(write(tmp_path, "a\n1\n2\nx\n4\n"))
    assert table.numbers(["a"], rows=[3, 0])[:, 0].tolist() == [4, 1]
    with pytest.raises(InputError, match="data row 3, column 'a': is 'x'; expected a number"):
        table.numbers(["a"], rows=[1, 2])
