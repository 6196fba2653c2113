"""The leaderboard page in a real browser, opened from disk with no network.

Skipped where there is no Chromium with its driver (Debian: chromium, chromium-driver), unless
PRUNEFUSE_BENCH_BROWSER=required says that there must be.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from made_runs import make_run
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from test_page import HOSTILE

from prunefuse_bench.report.page import write_page

pytestmark = pytest.mark.browser

METHODS = ("random", "al", "prunefuse", HOSTILE[0], HOSTILE[1], HOSTILE[3], HOSTILE[6])
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no name resolves: nothing can be fetched
    "--proxy-server=127.0.0.1:9",  # and no address is reached
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    found, driver = next(filter(None, map(shutil.which, BROWSERS)), None), shutil.which("chromedriver")
    if not found or not driver:
        missing = "no Chromium with its driver here (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("PRUNEFUSE_BENCH_BROWSER") == "required":
            pytest.fail(missing)
        pytest.skip(missing)
    options = webdriver.ChromeOptions()
    options.binary_location = found
    for argument in (*ARGUMENTS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    session = webdriver.Chrome(options=options, service=service)
    session.set_script_timeout(60)
    yield session
    session.quit()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two boards: hostile names on two machines with cells that lack results, and a coreset task of two budgets."""
    folder = tmp_path_factory.mktemp("runs")
    first = make_run(
        folder / "first",
        methods=METHODS,
        machine=lambda method, seed: {"cpu": "Another Processor"} if seed == 1 else {},
        failed={("prunefuse", 0): (1, "<b>diverged</b>")},
        missing=[("al", 2)],
        curve=lambda method, seed, labels: [0.1, 0.5, 0.6 + 0.05 * seed, 0.8],
    )
    second = make_run(
        folder / "second",
        methods=("random", "el2n"),
        protocol="coreset",
        label_counts=(359, 718),
        title="two",
        dataset="two",
    )
    return write_page([first, second], folder)


@pytest.fixture
def page(browser: Any, file: Path) -> Any:
    """The page, freshly opened, in light colours on a wide screen."""
    return open_page(browser, file)


@pytest.fixture
def drawn(browser: Any, file: Path) -> Any:
    """The page with every chart drawn, for tests that others can follow on the same page."""
    if not browser.execute_script("return Boolean(window.__allDrawn)"):
        open_page(browser, file)
        draw_all(browser)
        browser.execute_script("window.__allDrawn = true")
    return browser


def open_page(browser: Any, file: Path, width: int = 1440, scheme: str = "light") -> Any:
    set_colours(browser, scheme)
    set_width(browser, width)
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(file.as_uri())
    return browser


def set_colours(browser: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def set_width(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def errors(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def names(page: Any, table: str = "board-1-table") -> list[str]:
    script = """return [...document.querySelectorAll(`#${arguments[0]} tbody tr`)].filter(row => !row.hidden)
                .map(row => row.cells[0].textContent.trim())"""
    return page.execute_script(script, table)


def draw_all(page: Any) -> None:
    page.execute_script("window.__drawAll()")


def test_every_chart_is_drawn_and_nothing_complains(drawn: Any) -> None:
    charts = drawn.execute_script("return window.__drawn")
    assert charts["errors"] == []
    assert len(charts["counts"]) == charts["total"] > 10
    marks = drawn.execute_script(
        """return [...document.querySelectorAll("[data-chart]")].map(chart => [chart.id, chart.querySelectorAll(
           ".scatterlayer .point, .scatterlayer .js-line, .barlayer .point, .heatmaplayer image").length])"""
    )
    assert len(marks) == charts["total"]
    assert all(count > 0 for _, count in marks), marks
    assert errors(drawn) == []


def test_nothing_is_fetched(drawn: Any, file: Path) -> None:
    asked = [
        entry["message"] for entry in drawn.get_log("performance") if '"Network.requestWillBeSent"' in entry["message"]
    ]
    assert all(file.as_uri() in message or '"url":"data:' in message or '"url":"blob:' in message for message in asked)
    refused = drawn.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('fetched'), () => done('refused'))"
    )
    assert refused == "refused"


def test_hostile_names_are_text(drawn: Any) -> None:
    shown = names(drawn)
    assert HOSTILE[0] in shown
    assert HOSTILE[1] in shown
    assert drawn.execute_script("return document.querySelectorAll('script').length") == 3
    assert drawn.execute_script("return document.querySelectorAll('img').length") == 0
    ticks = drawn.execute_script(
        "return [...document.querySelectorAll('#board-1-areas .ytick text')].map(tick => tick.textContent)"
    )
    assert HOSTILE[0] in ticks


def test_the_data_of_a_chart_is_a_table(drawn: Any) -> None:
    drawn.execute_script("document.querySelector('[data-table=\"board-1-curves\"]').open = true")
    wait(drawn, "return document.querySelectorAll('[data-table=\"board-1-curves\"] tbody tr').length > 0")
    rows = drawn.execute_script("return document.querySelectorAll('[data-table=\"board-1-curves\"] tbody tr').length")
    assert rows == len(METHODS) * 3


def test_the_results_are_unpacked_in_the_browser(drawn: Any) -> None:
    text = drawn.execute_async_script("const done = arguments[0]; window.__results('board-2').then(done)")
    head, *lines = text.strip().split("\n")
    assert head.startswith("run,cell,dataset,model,method,seed,status")
    assert len(lines) == 2 * 3 * 2


def test_a_click_sorts_and_the_heading_says_so(drawn: Any) -> None:
    heading = drawn.find_element("css selector", "#board-1-table thead th")
    heading.find_element("tag name", "button").click()
    shown = names(drawn)
    latin = [name for name in shown if name.isascii() and name.isalnum()]
    assert latin == sorted(latin)
    assert heading.get_attribute("aria-sort") == "ascending"
    heading.find_element("tag name", "button").click()
    assert names(drawn) == shown[::-1]
    assert heading.get_attribute("aria-sort") == "descending"
    assert drawn.execute_script("return document.querySelectorAll('#board-1-table [aria-sort]').length") == 1


def test_every_column_of_every_table_sorts(drawn: Any) -> None:
    broken = drawn.execute_script(
        """const broken = [];
        for (const table of document.querySelectorAll("table.board-table")) {
          const buttons = [...table.querySelectorAll("thead button.sort")];
          buttons.forEach((button, column) => {
            for (const wanted of ["first", "second"]) {
              button.click();
              const rising = button.closest("th").getAttribute("aria-sort") === "ascending";
              const values = [...table.tBodies[0].rows].map(row => row.cells[column].dataset.value);
              if (values.some(value => value === undefined)) broken.push([table.id, column, "no value"]);
              if (button.dataset.kind === "text") continue;
              const known = values.filter(value => value !== "").map(Number);
              const sorted = [...known].sort((a, b) => rising ? a - b : b - a);
              if (known.some((value, at) => value !== sorted[at])) broken.push([table.id, column, known]);
              if (values.slice(0, known.length).includes("")) broken.push([table.id, column, "missing is not last"]);
            }
          });
        }
        return broken"""
    )
    assert broken == []


def test_charts_are_drawn_when_they_come_into_view(page: Any) -> None:
    before = page.execute_script("return Object.keys(window.__drawn.counts)")
    assert "board-2-stages-0" not in before
    page.execute_script("document.getElementById('board-2-stages-0').scrollIntoView({behavior: 'instant'})")
    wait(page, "return 'board-2-stages-0' in window.__drawn.counts")


def test_the_keyboard_sorts_filters_and_chooses(drawn: Any) -> None:
    keys = Keys
    drawn.execute_script("document.querySelector('#board-1-table thead th:nth-child(4) button').focus()")
    drawn.switch_to.active_element.send_keys(keys.ENTER)
    assert drawn.execute_script("return document.activeElement.closest('th').getAttribute('aria-sort')") == "descending"
    drawn.switch_to.active_element.send_keys(keys.SPACE)
    assert drawn.execute_script("return document.activeElement.closest('th').getAttribute('aria-sort')") == "ascending"
    drawn.execute_script("document.querySelector('#board-1-legend button').focus()")
    drawn.switch_to.active_element.send_keys(keys.SPACE)
    assert drawn.execute_script("return document.activeElement.getAttribute('aria-pressed')") == "false"
    drawn.execute_script("document.activeElement.blur(); window.scrollTo(0, 0)")
    drawn.find_element("tag name", "body").send_keys(keys.TAB)
    outline = drawn.execute_script("return getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_filters_hide_what_does_not_fit(page: Any) -> None:
    page.find_element("id", "method").send_keys("PRUNE")
    assert names(page) == ["prunefuse"]
    assert "1 of" in page.find_element("id", "status").text
    choose(page, "protocol", "coreset selection")
    shown = page.execute_script("return [...document.querySelectorAll('section.board')].map(board => !board.hidden)")
    assert shown == [False, True]
    choose(page, "task", "digits, resnet8")
    assert page.find_element("id", "nothing").is_displayed()


def test_a_budget_shows_its_own_columns(page: Any) -> None:
    script = """return [...document.querySelectorAll("#board-1-table thead th")].filter(th => !th.hidden)
                .map(th => th.querySelector("button").firstChild.textContent.trim())"""
    everything = page.execute_script(script)
    first, last = ["Method", "Rank", "Standing", "Average"], ["Label saving", "FLOPs saving", "Cells"]
    assert everything == [*first, *last, "2.02%", "10%", "20%"]
    choose(page, "budget", "10%")
    assert page.execute_script(script) == [*first, *last, "10%"]
    captions = page.execute_script(
        "return [...document.querySelectorAll('#board-1 .at-budget')].map(t => t.textContent)"
    )
    assert all("10%" in caption for caption in captions)
    other = page.execute_script("return document.querySelector('#board-2 .at-budget').textContent")
    assert "This board has no budget of 10%" in other


def test_axes_start_at_chance_and_say_so_when_they_do_not(page: Any) -> None:
    draw_all(page)
    note = "return document.querySelector('[data-note=\"board-1-curves\"]').textContent"
    low = "return document.getElementById('board-1-curves')._fullLayout.yaxis.range[0]"
    assert page.execute_script(low) == pytest.approx(10)
    assert "axis starts" not in page.execute_script(note)
    page.execute_script(
        "document.querySelector('[data-controls=\"board-1-curves\"] [data-zoom]').click(); window.__drawAll()"
    )
    assert page.execute_script(low) > 10
    assert "not at chance, 10.0%" in page.execute_script(note)
    for key in ("board-1-flops", "board-1-seconds-0", "board-1-stages-0"):
        assert page.execute_script("return document.getElementById(arguments[0])._fullLayout.xaxis.range[0]", key) <= 0


def test_the_colours_follow_the_system_and_the_button(page: Any) -> None:
    paper = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(paper)
    set_colours(page, "dark")
    dark = page.execute_script(paper)
    assert dark != light
    page.find_element("id", "theme").click()
    assert page.execute_script(paper) == light
    draw_all(page)
    ink = page.execute_script("return document.getElementById('board-1-curves')._fullLayout.font.color")
    page.find_element("id", "theme").click()
    draw_all(page)
    assert page.execute_script("return document.getElementById('board-1-curves')._fullLayout.font.color") != ink
    assert page.execute_script(paper) == dark


def test_print_draws_every_chart_on_white(page: Any) -> None:
    set_colours(page, "dark")
    page.execute_script(
        """window.paper = [];
        addEventListener("beforeprint", () => { for (const chart of document.querySelectorAll("[data-chart]"))
          paper.push([chart._fullLayout.font.color, chart._fullLayout.width]); });"""
    )
    page.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    drawn = page.execute_script("return window.__drawn")
    assert len(drawn["counts"]) == drawn["total"]
    assert drawn["errors"] == []
    assert page.execute_script("return [...new Set(paper.map(String))]") == ["#1b1e23,680"]
    assert page.execute_script("return document.documentElement.dataset.theme") is None


def test_a_link_opens_where_a_number_comes_from(page: Any) -> None:
    page.find_element("css selector", "#board-1-table tbody a").click()
    wait(page, "return document.querySelector('details.method:target')?.open")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 390)])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_screen(
    browser: Any, file: Path, scheme: str, width: int
) -> None:
    page = open_page(browser, file, width, scheme)
    draw_all(page)
    page.execute_script(axe_source())
    # What is inside a chart is no text to assistive technology: the chart is one picture with its words.
    found = page.execute_async_script(
        "const done = arguments[0]; axe.run({exclude: ['.plot > *']}, {resultTypes: ['violations']}).then(done)"
    )
    assert len(found["passes"]) > 20
    serious = [
        (violation["id"], [(node["html"][:200], node["failureSummary"]) for node in violation["nodes"][:3]])
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]
    assert serious == []
    page.execute_script("for (const details of document.querySelectorAll('details')) details.open = true")
    wide = page.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width, page.execute_script(
        """return [...document.querySelectorAll("body *")].filter(element =>
           element.getBoundingClientRect().right > innerWidth + 1 && !element.closest(".scroll, pre, .skip, svg")
           ).map(element => element.tagName + "." + element.className).slice(0, 9)"""
    )


def axe_source() -> str:
    """axe-core, as the package axe-playwright-python brings it; nothing else of that package is used."""
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def choose(page: Any, field: str, value: str) -> None:
    script = """const field = document.getElementById(arguments[0]); field.value = arguments[1];
                field.dispatchEvent(new Event("change"))"""
    page.execute_script(script, field, value)


def wait(page: Any, condition: str) -> None:
    expected = WebDriverWait
    expected(page, 30).until(lambda driver: driver.execute_script(condition))
