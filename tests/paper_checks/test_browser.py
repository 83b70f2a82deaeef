"""The report in a real headless Chromium; `.ci/run` installs it."""

import json
import shutil

import pytest

import paper_checks
from paper_checks.result import Result

pytestmark = pytest.mark.browser

PHONE, DESK = 375, 1280
CHECKS = ["eq4", "eq8", "eq20", "fig6", "fig15"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Equations with their formulas, two pictures, and a claim with everything that is long."""
    from paper_checks.check import Drawing
    from paper_checks.report.page import render
    from paper_checks.running.runner import RESULTS

    out = tmp_path_factory.mktemp("report")
    results = paper_checks.run(only=CHECKS, out=out)
    drawings = {
        result.id: Drawing(
            (out / result.figure).read_text(encoding="utf-8"), result.alt, result.caption
        )
        for result in results
        if result.figure
    }
    rows = [{f"column {k}": 10.0**k for k in range(20)}] * 3
    long = Result(
        id="claim-minimum-at-zero",
        kind="claim",
        verdict="contradicted",
        statement="A <statement> " + "which goes on " * 40,
        criterion="x" * 200,
        predicted="≥ 0.9",
        measured=0.123,
        interval=(0.1, 0.2),
        tolerance=None,
        reason="unbroken_" * 30,
        seeds=[0, 1, 2],
        seconds=12.3,
        figure=None,
        environment=results[0].environment,
        title="A claim",
        criterion_hash="0" * 64,
        code="paper_checks/papers/gao2020/claims/minimum_at_zero.py",
        measurements={"rows": rows},
    )
    results.append(long)
    (out / "index.html").write_text(render(results, drawings), encoding="utf-8")
    assert (out / RESULTS).exists()
    return out, results


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    found = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    # Not skipped: without a browser the page is untested, and the gate must say so.
    assert found, "no chromium; install the packages chromium and chromium-driver"
    assert driver, "no chromedriver; install the packages chromium and chromium-driver"
    options.binary_location = found
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    window = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield window
    window.quit()


@pytest.fixture
def page(browser, report):
    def load(width, height=900):
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get((report[0] / "index.html").as_uri())
        return browser

    return load


def visible(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#summary tbody tr')].filter(r => !r.hidden)"
        ".map(r => r.cells[0].textContent.trim())"
    )


def test_it_loads_without_an_error_or_an_outside_request(page):
    browser = page(DESK)
    assert browser.get_log("browser") == []
    asked = [
        event["params"]["request"]["url"]
        for event in (json.loads(e["message"])["message"] for e in browser.get_log("performance"))
        if event["method"] == "Network.requestWillBeSent"
    ]
    assert asked, "the log of requests is empty; the test would see nothing"
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    # One file alone: the page may be mailed.
    assert len([url for url in asked if url.startswith("file:")]) == 1


def test_the_summary_filters(page, report):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    browser = page(DESK)
    every = [result.id for result in report[1]]
    assert sorted(visible(browser)) == sorted(every)
    Select(browser.find_element(By.ID, "kind")).select_by_visible_text("figure")
    assert visible(browser) == ["fig6", "fig15"]
    assert not browser.find_element(By.ID, "eq4").is_displayed()
    assert browser.find_element(By.ID, "count").text == f"2 of {len(every)} shown"
    Select(browser.find_element(By.ID, "kind")).select_by_visible_text("all")
    Select(browser.find_element(By.ID, "verdict")).select_by_visible_text("contradicted")
    assert visible(browser) == ["claim-minimum-at-zero"]
    Select(browser.find_element(By.ID, "verdict")).select_by_visible_text("all")
    browser.find_element(By.ID, "text").send_keys("EQ20")
    assert visible(browser) == ["eq20"]


def test_the_summary_sorts_contradictions_first_to_begin_with(page, report):
    from selenium.webdriver.common.by import By

    browser = page(DESK)
    assert visible(browser)[0] == "claim-minimum-at-zero"
    heads = browser.find_elements(By.CSS_SELECTOR, "#summary th button")
    heads[0].click()
    paper = ["eq4", "eq8", "eq20", "fig6", "fig15", "claim-minimum-at-zero"]
    assert visible(browser) == paper
    heads[0].click()
    assert visible(browser) == paper[::-1]
    next(head for head in heads if head.text == "Seconds").click()
    seconds = {result.id: result.seconds for result in report[1]}
    assert [seconds[name] for name in visible(browser)] == sorted(seconds.values())


def test_a_phone_which_hides_the_columns_names_sorts_too(page, report):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    browser = page(PHONE)
    choice = Select(browser.find_element(By.ID, "sort"))
    assert choice.first_selected_option.text == "verdict"
    choice.select_by_visible_text("check")
    paper = ["eq4", "eq8", "eq20", "fig6", "fig15", "claim-minimum-at-zero"]
    assert visible(browser) == paper
    choice.select_by_visible_text("seconds")
    seconds = {result.id: result.seconds for result in report[1]}
    assert [seconds[name] for name in visible(browser)] == sorted(seconds.values())


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_it_is_as_wide_as_the_screen_and_readable(page, width):
    browser = page(width)
    browser.execute_script("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    sizes = browser.execute_script(
        "return [...document.querySelectorAll('p,li,dd,td,blockquote,figcaption,caption')]"
        ".filter(e => e.getClientRects().length)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize))"
    )
    assert min(sizes) >= 13
    pictures = browser.execute_script(
        "return [...document.querySelectorAll('figure')].map(f => {"
        "const b = f.getBoundingClientRect(), s = f.querySelector('svg');"
        "const scale = s.getBoundingClientRect().width / s.viewBox.baseVal.width;"
        "return [b.left, b.right, b.height, scale]})"
    )
    assert len(pictures) == 2
    for left, right, height, scale in pictures:
        assert left >= 0
        assert right <= width
        assert height > 100
        # Labels are 10 points of the drawing's own; on a phone it scrolls inside its frame.
        assert 10 * scale >= 9


def test_formulas_are_set_and_can_be_searched(page):
    """A fraction is as high as two lines, and its letters are text of the page."""
    browser = page(DESK)
    formulas = browser.execute_script(
        "return [...document.querySelectorAll('.display math')].map(m => "
        "[m.getAttribute('alttext'), m.getBoundingClientRect().height, m.textContent])"
    )
    assert formulas
    for source, height, text in formulas:
        assert source
        assert "\\" not in text
        assert height > (25 if "\\frac" in source else 8), source


def test_every_picture_has_a_text_alternative(page):
    browser = page(DESK)
    names = browser.execute_script(
        "return [...document.querySelectorAll('svg, img, canvas')].map(s => "
        "[s.getAttribute('role'), s.getAttribute('aria-label') || (s.getAttribute("
        "'aria-labelledby') || '').split(' ').filter(Boolean)"
        ".map(i => (document.getElementById(i) || {}).textContent || '').join(' ')])"
    )
    assert len(names) == 2
    assert all(role == "img" and name.strip() for role, name in names)
