"""What is kept between years, and within which limits."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from xland.downscaling import engine
from xland.downscaling.engine import Residency, give_back


class Maker:
    """Makes a value of a size, and counts how often."""

    def __init__(self, size: int = 1) -> None:
        self.size = size
        self.calls = 0

    def __call__(self) -> tuple[object, int]:
        self.calls += 1
        return object(), self.size


def test_what_fits_stays_and_what_came_first_is_not_pushed_out():
    residency = Residency(budget=10)
    makers = [Maker(4) for _ in range(4)]
    first = [residency.get("run", number, make) for number, make in enumerate(makers)]
    again = [residency.get("run", number, make) for number, make in enumerate(makers)]
    assert [make.calls for make in makers] == [1, 1, 2, 2]
    assert [a is b for a, b in zip(first, again, strict=True)] == [True, True, False, False]
    assert residency.used == 8


@given(st.integers(0, 30), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 12)), max_size=30))
def test_no_more_than_the_budget_is_ever_kept(budget, requests):
    residency = Residency(budget)
    sizes: dict[int, int] = {}
    for key, size in requests:
        sizes.setdefault(key, size)
        residency.get("run", key, Maker(sizes[key]))
        assert residency.used <= budget


def test_another_run_clears_what_was_kept():
    residency = Residency(budget=10)
    make = Maker(10)
    one = residency.get("one", "key", make)
    two = residency.get("two", "key", make)
    assert one is not two
    assert residency.used == 10
    assert residency.get("two", "key", make) is two
    assert residency.get("one", "key", make) is not one


def test_a_value_that_was_made_for_a_run_that_is_over_is_not_kept():
    residency = Residency(budget=10)

    def make_late() -> tuple[str, int]:
        residency.get("next", "other", Maker(3))
        return "late", 5

    assert residency.get("run", "key", make_late) == "late"
    assert (residency.run, residency.used) == ("next", 3)


def test_threads_that_ask_at_once_count_a_value_once():
    residency = Residency(budget=100)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: residency.get("run", n % 3, Maker(10)), range(60)))
    assert residency.used == 30


def test_freed_memory_can_be_given_back_and_is_where_the_c_library_can(monkeypatch):
    give_back()
    asked = []
    monkeypatch.setattr(engine, "_malloc_trim", lambda: asked.append)
    give_back()
    assert asked == [0]
    monkeypatch.setattr(engine, "_malloc_trim", lambda: None)
    give_back()
