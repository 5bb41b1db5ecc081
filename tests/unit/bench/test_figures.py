"""The figures of a benchmark: medians, bars, ratios."""

from __future__ import annotations

from harness.bench.figures import BARS, HEADER, RATIOS, Figures


def measured() -> Figures:
    figures = Figures()
    for values in ((9.0, 0.07, 0.2, 3.0), (8.0, 0.06, 0.4, 4.0), (10.0, 0.01, 0.3, 5.0)):
        for name, value in zip(("vng_pristine", "clone_ready", "isolated_test", "cold_boot"), values, strict=True):
            figures.add(name, "s", f"the {name}", value)
    figures.add("plain_without", "s", "without the plugin", 0.5)
    figures.add("plain_with", "s", "with it", 0.51)
    figures.add("clone_private", "MiB", "memory", 12.34)
    return figures


def test_a_row_has_the_median_the_extremes_and_the_bar() -> None:
    rows = {row[0]: dict(zip(HEADER, row, strict=True)) for row in measured().rows()}
    assert rows["clone_ready"]["median"] == "60.0 ms"
    assert (rows["cold_boot"]["min"], rows["cold_boot"]["max"], rows["cold_boot"]["n"]) == ("3.00 s", "5.00 s", "3")
    assert rows["clone_ready"]["bar"] == "met (≤ 80.0 ms)"
    assert rows["cold_boot"]["bar"] == "NOT MET (≤ 3.50 s)"
    assert (rows["clone_private"]["median"], rows["clone_private"]["bar"]) == ("12.3 MiB", "")


def test_ratios_are_of_medians() -> None:
    ratios = measured().ratios()
    assert ratios["vng_pristine / clone_ready"] == 9.0 / 0.06
    assert ratios["cold_boot / clone_ready"] == 4.0 / 0.06
    assert set(ratios) <= {f"{one} / {other}" for one, other in RATIOS}
    assert "vng_pristine / exec_true" not in ratios  # that was not measured


def test_the_record_has_all() -> None:
    record = measured().record()
    assert [one["name"] for one in record["figures"]][-1] == "clone_private"
    assert record["figures"][1] == {
        "name": "clone_ready",
        "unit": "s",
        "median": 0.06,
        "min": 0.01,
        "max": 0.07,
        "n": 3,
    }
    assert {"name": "vng_pristine / isolated_test", "value": 30.0} in record["ratios"]


def test_what_is_timed_is_returned() -> None:
    figures = Figures()
    assert figures.timed("x", "a thing", lambda: 7) == 7
    assert len(figures["x"].values) == 1
    assert set(BARS) >= {"clone_ready", "cold_boot"}
