"""The connection that all reading goes through: what it keeps in order, and that it ends."""

import duckdb
import pytest

from sidar.data.duck import Duck

ORDER = "SELECT current_setting('preserve_insertion_order')"


def test_results_keep_the_order_of_their_files_where_asked_and_only_there(tmp_path):
    with Duck(tmp_path) as duck:
        assert duck.row(ORDER) == (False,)
        with duck.in_order():
            assert duck.row(ORDER) == (True,)
        with pytest.raises(KeyError), duck.in_order():
            raise KeyError
        assert duck.row(ORDER) == (False,)


def test_a_closed_connection_answers_no_more(tmp_path):
    with Duck(tmp_path) as duck:
        assert duck.row("SELECT 1") == (1,)
    with pytest.raises(duckdb.ConnectionException):
        duck.row("SELECT 1")
