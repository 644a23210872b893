"""A page that falls behind receives fewer updates until it has caught up. Other pages are not slowed down."""

from __future__ import annotations

from mllama_demo.ui.update_rate import FASTER, LATE_MS, PUNCTUAL_MS, SLOWER, SLOWEST, UpdateRate


def test_a_late_page_receives_fewer_updates_but_never_none() -> None:
    rate = UpdateRate()
    rate.report_lag("old phone", LATE_MS + 1)
    assert (rate.of("old phone"), rate.of("laptop")) == (SLOWER, 1.0)
    for _ in range(20):
        rate.report_lag("old phone", 10_000)
    assert rate.of("old phone") == SLOWEST


def test_a_page_that_has_caught_up_returns_to_the_full_rate() -> None:
    rate = UpdateRate()
    rate.report_lag("page", LATE_MS + 1)
    rate.report_lag("page", (LATE_MS + PUNCTUAL_MS) / 2)
    assert rate.of("page") == SLOWER, "neither late nor punctual"
    rate.report_lag("page", 0)
    assert rate.of("page") == SLOWER * FASTER
    for _ in range(20):
        rate.report_lag("page", 0)
    assert rate.of("page") == 1.0


def test_a_closed_page_is_forgotten() -> None:
    rate = UpdateRate()
    rate.report_lag("page", LATE_MS + 1)
    rate.close_page("page")
    rate.close_page("never seen")
    assert rate.of("page") == 1.0
