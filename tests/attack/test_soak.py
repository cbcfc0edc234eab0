"""Ten minutes of the soak test that runs before a release."""

import pytest

from benchmarks.soak import soak


@pytest.mark.slow
@pytest.mark.browser
def test_ten_minutes_of_visitors_leave_the_app_as_it_was() -> None:
    assert soak(minutes=10, visitors=5)
