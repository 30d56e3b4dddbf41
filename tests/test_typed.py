"""Years as they are typed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xland.errors import TimeError
from xland.typed import years_of

YEARS = st.integers(850, 2500)


@pytest.mark.parametrize(
    ("typed", "years"),
    [
        ("2015", 2015),
        (["2015"], 2015),
        (["2015", "2020"], [2015, 2020]),
        ("2020,2030", [2020, 2030]),
        ("2030, 2020,2020", [2020, 2030]),
        ("2050:2100", slice(2050, 2100)),
        ("2050-2100", slice(2050, 2100)),
        ("2050:", slice(2050, None)),
        (":2100", slice(None, 2100)),
        ("2000:2010:5", [2000, 2005, 2010]),
        ("1990,2000-2002", [1990, 2000, 2001, 2002]),
    ],
)
def test_years_are_typed_in_any_of_the_usual_forms(typed, years):
    assert years_of(typed) == years


@pytest.mark.parametrize("typed", ["", ",", "20x5", "2050:2100:", "2015:2010", "2015.5", "2015,:2020", "::5", "999999"])
def test_text_that_is_not_years_is_refused_with_the_forms_that_are(typed):
    with pytest.raises(
        TimeError, match="give calendar years: 2015, a list 2015,2020, all from one to another 2050:2100"
    ):
        years_of(typed)


@given(st.lists(st.tuples(YEARS, YEARS), min_size=2, max_size=4))
def test_a_list_of_spans_has_each_year_of_them_once(spans):
    spans = [sorted(span) for span in spans]
    found = years_of(",".join(f"{first}-{last}" for first, last in spans))
    assert found == sorted({year for first, last in spans for year in range(first, last + 1)})
