"""The page of `harness report --html` in a real browser: with a mouse, a keyboard, on a phone, on paper."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from harness.report.html import as_html
from harness.results.outcomes import Outcome
from tests.browser.chromium import launched, opened
from tests.unit.report.test_matrix import hostile
from tests.unit.results.samples import many, observation, record, result

PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "a page.html"
    made.write_text(as_html(many(200)), encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, path: Path) -> Iterator[Page]:
    with opened(browser, path) as page:
        yield page


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def shown(page: Page) -> list[str]:
    found: list[str] = page.evaluate(
        "$$('tr[data-row]').filter(e => e.checkVisibility()).map(e => e.querySelector('.id').textContent)"
    )
    return found


def detail(page: Page) -> str | None:
    found: str | None = page.evaluate("$('#detail')?.innerText")
    return found


def test_a_click_opens_details_and_another_closes_them(page: Page) -> None:
    cell = "tr[data-row='1'] td[data-column='2'] > button"
    expanded = f"$(\"{cell}\").getAttribute('aria-expanded')"
    assert page.evaluate(expanded) == "false"
    page.click(cell)
    assert page.evaluate(expanded) == "true"
    told = detail(page)
    assert told is not None
    for word in ("hom.create.case_1 on 6.12", "Observed", "Expected", "Source", "134fede4eecf", "Copy"):
        assert word in told
    command = "pytest --kernel=6.12 'harness/contracts/test_create.py::test_create_of_case_1[hom.create.case_1-6.12]'"
    assert command in told
    assert page.evaluate("location.hash") == "#r1-2"
    page.click(cell)
    assert page.evaluate(expanded) == "false"
    assert detail(page) is None


def test_only_one_cell_is_open(page: Page) -> None:
    page.click("tr[data-row='1'] td[data-column='2'] > button")
    page.click("tr[data-row='4'] td[data-column='0'] > button")
    assert page.evaluate("$$('[aria-expanded=true]').length - $$('.group').length") == 1
    assert "case_4 on 5.10" in (detail(page) or "")


def focused(page: Page) -> Any:
    return page.evaluate(
        "(() => { const c = document.activeElement.closest('td[data-column]');"
        "return c && [Number(c.parentElement.dataset.row), Number(c.dataset.column)]; })()"
    )


def test_the_keyboard_reaches_everything(page: Page) -> None:
    kinds = []
    for _ in range(60):
        press(page, "Tab")
        kinds.append(
            page.evaluate(
                "document.activeElement.name || document.activeElement.id || document.activeElement.className"
            )
        )
        if focused(page):
            break
    # What is wrong, search, filters, kernels, then the table: the order in which they stand.
    places = [kinds.index(name) for name in ("search", "show", "kernel", "scroll")]
    assert places == sorted(places)
    assert focused(page) == [0, 0]
    press(page, "ArrowRight", "ArrowDown", "ArrowDown")
    assert focused(page) == [2, 1]
    press(page, "ArrowUp", "ArrowLeft")
    assert focused(page) == [1, 0]
    press(page, "Enter")
    assert "case_1 on 5.10" in (detail(page) or "")
    press(page, "Tab")
    assert page.evaluate("document.activeElement.closest('tr').className") == "detail"
    press(page, "Escape")
    assert detail(page) is None
    assert focused(page) == [1, 0]


def test_one_stop_in_the_table_for_the_tab_key(page: Page) -> None:
    assert page.evaluate("$$('td > button[tabindex=\"0\"]').length") == 1
    page.click("tr[data-row='7'] td[data-column='3'] > button")
    assert page.evaluate("$$('td > button[tabindex=\"0\"]').length") == 1


def test_search_narrows_the_rows_and_says_how_many(page: Page) -> None:
    page.evaluate("$('#search').focus()")
    page.keyboard.insert_text("hom batch")
    found = shown(page)
    assert len(found) == 10
    assert all(name.startswith("hom.batch.") for name in found)
    assert page.evaluate("$('#tally').textContent") == "10 of 200 behaviours"
    # The headings of groups that have no row left are gone with them.
    assert page.evaluate("$$('tr.group').filter(e => e.checkVisibility()).length") == 1
    page.keyboard.insert_text(" no such")
    assert shown(page) == []


@pytest.mark.parametrize(
    ("choice", "states"),
    [
        ("bad", {"failed", "leaked", "faulted", "hung", "crashed", "protocol"}),
        ("skip", {"unsupported", "left_out"}),
        ("lost", {"infrastructure", "not_run"}),
        ("edge", {"edge"}),
    ],
)
def test_rows_can_be_chosen_by_what_is_in_them(page: Page, choice: str, states: set[str]) -> None:
    page.click(f"input[name=show][value={choice}]")
    rows = page.evaluate(
        "$$('tr[data-row]').map(e => [e.checkVisibility(),"
        "[...e.querySelectorAll('td')].flatMap(c => [...c.classList])])"
    )
    assert {visible for visible, _ in rows} == {True, False}
    for visible, classes in rows:
        assert visible == bool(states & set(classes))


def test_kernels_can_be_hidden(page: Page) -> None:
    page.click("input[name=kernel][value='0']")
    page.click("input[name=kernel][value='3']")
    heads = "$$('.matrix thead th').filter(e => e.checkVisibility()).map(e => e.querySelector('b')?.textContent)"
    assert page.evaluate(heads) == [None, "6.1", "6.12", "6.17", "6.18", "6.19", "7.0", "7.1", "7.2", "7.3"]
    assert page.evaluate("$('tr.group th').colSpan") == 10
    left, right = page.evaluate(
        "['thead th', 'tr[data-row] td'].map(s => $(`.matrix ${s}[data-column='4']`).getBoundingClientRect().x)"
    )
    assert abs(left - right) < 1
    # A cell that is hidden is no reason to show its row.
    page.click("input[name=show][value=skip]")
    assert all(
        page.evaluate(
            "$$('tr[data-row]').filter(e => e.checkVisibility())"
            ".map(e => [...e.querySelectorAll('td.unsupported, td.left_out')].some(c => c.checkVisibility()))"
        )
    )


def test_a_group_can_be_folded(page: Page) -> None:
    before = len(shown(page))
    page.click("tr.group button")
    assert page.evaluate("$('tr.group button').getAttribute('aria-expanded')") == "false"
    assert len(shown(page)) == before - 20
    page.click("tr.group button")
    assert len(shown(page)) == before


def test_headers_stay_in_sight(page: Page) -> None:
    page.evaluate("$('.scroll').scrollIntoView()")
    page.evaluate("$('.scroll').scrollBy(0, 3000)")
    top, head, group = page.evaluate(
        "[$('.scroll').getBoundingClientRect().top,"
        "$('.matrix thead th').getBoundingClientRect().top,"
        "Math.min(...$$('tr.group th').map(e => e.getBoundingClientRect().top).filter(y => y > 0))]"
    )
    assert abs(head - top) < 3
    assert 0 < group - top < 80


def test_a_link_leads_to_its_cell(browser: Browser, path: Path) -> None:
    with opened(browser, path, "#r150-4") as page:
        assert "case_150 on 6.17" in (detail(page) or "")
        assert focused(page) == [150, 4]
        # One in the page, while filters hide where it leads.
        page.evaluate("$('#search').value = 'nothing of the sort';$('#search').dispatchEvent(new Event('input'))")
        assert shown(page) == []
        page.evaluate("$('.list a').click()")
        page.wait_for_function("$$('tr[data-row]').some(e => e.checkVisibility())")
        row, column = page.evaluate("location.hash").removeprefix("#r").split("-")
        assert focused(page) == [int(row), int(column)]


def test_on_a_phone_the_page_is_no_wider_than_the_screen(browser: Browser, path: Path) -> None:
    with opened(browser, path, viewport=PHONE, is_mobile=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        page.evaluate("$('.scroll').scrollBy(200, 300)")
        # Behaviours stay beside what is seen of them, and details fit the screen.
        assert page.evaluate("$('tbody th[scope=row]').getBoundingClientRect().left") < 20
        page.evaluate("$('td.failed > button').click()")
        left, right = page.evaluate(
            "(() => { const b = $('#detail > td > div').getBoundingClientRect(); return [b.left, b.right]; })()"
        )
        assert left >= 0
        assert right <= PHONE["width"]
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


CONTRAST = """
(() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((v) => {
      v /= 255;
      return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const rgb = parse(getComputedStyle(e).backgroundColor);
      if (rgb.length === 3 || rgb[3] === 1) return rgb;
    }
    return [255, 255, 255];
  };
  const found = {};
  for (const e of $$('body *')) {
    if (!e.checkVisibility() || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found[e.tagName + '.' + e.className + '/' + e.parentElement.className] = ratio;
  }
  return found;
})()
"""


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_can_be_read(browser: Browser, tmp_path: Path, dark: bool) -> None:
    made = record(*(result(f"t::{one.name}", "6.1", one.value) for one in Outcome), *many(60).results[:40])
    (tmp_path / "r.html").write_text(as_html(made), encoding="utf-8")
    with opened(browser, tmp_path / "r.html", color_scheme="dark" if dark else "light") as page:
        page.evaluate("$('td > button').click(); $$('details').forEach(d => d.open = true)")
        assert page.evaluate(CONTRAST) == {}
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        assert (sum(ground) < 200) == dark


def test_the_table_says_what_it_is_to_those_who_do_not_see_it(page: Page) -> None:
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.evaluate("$$('.matrix th').every(e => ['col', 'row', 'rowgroup'].includes(e.scope))")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles: dict[str, list[str]] = {}
    for node in tree:
        roles.setdefault(node["role"]["value"], []).append(str(node.get("name", {}).get("value", "")))
    assert "Search behaviours" in roles["searchbox"]
    assert all(name for role in ("button", "checkbox", "radio", "link", "heading") for name in roles[role])
    assert "passed, EINVAL" in roles["button"]
    assert any(name.endswith("otherwise than the kernel before") for name in roles["button"])
    assert len(roles["rowheader"]) >= 200
    levels = page.evaluate("$$('h1,h2,h3').map(e => Number(e.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_what_a_kernel_says_runs_nowhere(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text(as_html(hostile()), encoding="utf-8")
    with opened(browser, tmp_path / "r.html") as page:
        page.click("td > button")
        told = detail(page)
        assert told is not None
        assert told.count('<script>alert("1")</script> & </style> `x` | </td> <!--') >= 6
        assert page.evaluate("$$('#detail script').length") == 0


def test_without_scripts_the_table_is_whole(browser: Browser, path: Path) -> None:
    with opened(browser, path, java_script_enabled=False) as page:
        text = page.content()
        assert text.count("<tr data-row=") == 200
        assert "Details, search and filters need JavaScript" in text


def test_on_paper_the_table_is_whole_and_the_tools_are_gone(page: Page, tmp_path: Path) -> None:
    page.emulate_media(media="print")
    assert page.evaluate("$('.scroll').scrollHeight - $('.scroll').clientHeight") <= 1
    assert not page.evaluate("$('#search').checkVisibility()")
    page.pdf(path=tmp_path / "r.pdf", landscape=True, print_background=True)
    # 200 rows are more than a sheet.
    assert (tmp_path / "r.pdf").read_bytes().count(b"/Type /Page\n") >= 3


def test_observations_of_any_kind_are_shown(browser: Browser, tmp_path: Path) -> None:
    values = ["EINVAL", 0, 17, True, None, [1, 2], {"ids": [3]}, 1.5, "", "x" * 300]
    made = record(
        *(result(f"t::{n}", "6.1", observations=(observation("c", value),)) for n, value in enumerate(values))
    )
    (tmp_path / "r.html").write_text(as_html(made), encoding="utf-8")
    with opened(browser, tmp_path / "r.html") as page:
        for number, value in enumerate(values):
            page.evaluate(f"$(\"tr[data-row='{number}'] td > button\").click()")
            told = detail(page) or ""
            assert (value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))) in told
