from __future__ import annotations

from xland.totals import pixels


def test_without_a_folder_for_the_cache_functions_are_compiled_all_the_same(monkeypatch):
    def njit(*, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: ("compiled", function)

    monkeypatch.setattr(pixels, "njit", njit)
    assert pixels.compiled(len) == ("compiled", len)
