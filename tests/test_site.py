"""The site: its menu, its formulas and examples, and, in Chromium, its search and pictures."""

import importlib.util
import json
import os
import re
import shutil
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SITE = ROOT / "build" / "site"
PHONE, DESK = 375, 1280


class Loader(yaml.SafeLoader):
    """Names of Python objects, which mkdocs knows, are left as they stand."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
CONFIG = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)


def tool(name):
    spec = importlib.util.spec_from_file_location(name, DOCS / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pages(entry):
    """The pages of a menu, at any depth."""
    if isinstance(entry, str):
        return [entry]
    nested = entry.values() if isinstance(entry, dict) else entry
    return [page for each in nested for page in pages(each)]


def test_every_page_is_in_the_menu_once():
    listed = pages(CONFIG["nav"])
    assert len(listed) == len(set(listed))
    written = {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")}
    made = {page for page in listed if page.startswith("tutorials/")}
    assert set(listed) | made == written | made
    scripts = {f"tutorials/{path.stem}.md" for path in (DOCS / "tutorials").glob("*.py")}
    assert made == scripts
    assert len(scripts) >= 8


def test_what_the_tutorials_import_is_installed_with_the_docs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    installed = " ".join(installed_by("docs", project["optional-dependencies"]))
    for path in (DOCS / "tutorials").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for name in set(
            re.findall(r"^(?:from|import) (lightning|transformers|safetensors)", text, re.M)
        ):
            assert re.search(rf"\b{name}\b", installed), (path.name, name)


def installed_by(extra, extras):
    """The requirements of an extra, those of other extras in it."""
    for line in extras[extra]:
        nested = re.match(r"cblr\[(.*)\]", line)
        if nested:
            for each in nested[1].split(","):
                yield from installed_by(each, extras)
        else:
            yield line


def test_every_package_has_its_reference():
    text = "\n".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference").glob("*.md"))
    named = re.findall(r"^::: ([\w.]+)$", text, flags=re.M)
    assert len(named) == len(set(named))
    assert {
        "hessian",
        "hessian.functional",
        "hessian.testing",
        "paper_checks",
        "sim",
        "theory",
    } <= set(named)
    for module in ("optimizers", "data", "models", "training", "integrations"):
        assert f"sim.{module}" in named


def test_formulas_become_mathml():
    mathml = tool("mathml")
    page = r'<p>a <span class="arithmatex">\(\frac{a}{b} &lt; 1\)</span></p>'
    made = mathml.on_page_content(page)
    assert "<mfrac><mrow><mi>a</mi></mrow><mrow><mi>b</mi></mrow></mfrac>" in made
    assert r'alttext="\frac{a}{b} &lt; 1"' in made
    assert "arithmatex" not in made
    rows = mathml.mathml(r"\begin{aligned} a & = b \\ c & = d \end{aligned}", "block")
    assert rows.count("<mtr>") == 2
    for wrong in (r"\nosuchcommand{x}", r"a & b"):
        with pytest.raises(ValueError, match="no formula: "):
            mathml.mathml(wrong, "inline")


def test_examples_of_docstrings_become_code():
    fenced = tool("doctests").fenced
    assert fenced("    >>> 1\n    1\n") == "    ```pycon\n    >>> 1\n    1\n    ```"
    assert fenced("a\n>>> f([0])\n[0, 1]\n\nb") == "a\n\n```pycon\n>>> f([0])\n[0, 1]\n```\n\nb"
    for plain in ("a\n\n```python\n>>> 1\n```", "a\n\nExamples:\n    So:\n\n    >>> 1\n    1"):
        assert fenced(plain) == plain
    assert fenced("Example:\n    >>> 1\n    1") == "Examples:\n    >>> 1\n    1"
    assert fenced("Example:\n    >>> 1\n\n>>> 2").endswith("\n\n```pycon\n>>> 2\n```")


def test_a_tutorial_becomes_a_page_with_what_it_printed_and_drew(tmp_path, monkeypatch):
    import nbformat.v4 as notebooks

    tutorials = tool("tutorials")
    monkeypatch.setattr(tutorials, "FOLDER", tmp_path)
    drawn = notebooks.new_output("display_data", {"image/svg+xml": "<svg/>", "text/plain": "F"})
    cells = [
        notebooks.new_markdown_cell("# Title"),
        notebooks.new_code_cell("1 + 1", outputs=[notebooks.new_output("stream", text="2\n")]),
        notebooks.new_code_cell("secret", metadata={"tags": ["hidden"]}),
        notebooks.new_code_cell("draw()", metadata={"alt": "A line"}, outputs=[drawn]),
        notebooks.new_code_cell(
            "law", outputs=[notebooks.new_output("execute_result", {"text/latex": "$x^2$"})]
        ),
    ]
    text = tutorials.page(notebooks.new_notebook(cells=cells), "a")
    assert text.startswith("# Title\n\n```python\n1 + 1\n```\n\n")
    assert "```text\n2\n```" in text
    assert "secret" not in text
    assert "![A line](a/3-0.svg)" in text
    assert (tmp_path / "a" / "3-0.svg").read_text() == "<svg/>"
    assert "$$\nx^2\n$$" in text
    del cells[3].metadata["alt"]
    with pytest.raises(ValueError, match="a picture needs alt="):
        tutorials.page(notebooks.new_notebook(cells=cells), "a")


def test_a_tutorial_is_old_when_its_source_is_newer(tmp_path):
    tutorials = tool("tutorials")
    source = tmp_path / "a.py"
    source.write_text("")
    assert tutorials.stale(source)
    source.with_suffix(".md").write_text("")
    assert not tutorials.stale(source)
    os.utime(source, (2**32, 2**32))
    assert tutorials.stale(source)


# ---- in a browser, once `make docs` has built it -------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    # Not skipped: `make browser` builds the site and the gate installs a browser.
    assert (SITE / "index.html").is_file(), "no site; run `make docs`"
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert program, "no chromium; install the packages chromium and chromium-driver"
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    window = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield window
    window.quit()


def show(browser, page, width=DESK):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get((SITE / page).as_uri())


def html(page):
    return str(Path(page).with_suffix(".html"))


@pytest.mark.browser
def test_no_page_asks_anything_of_anybody(browser):
    asked = []
    for page in pages(CONFIG["nav"]):
        show(browser, html(page))
        assert [e for e in browser.get_log("browser") if e["level"] == "SEVERE"] == [], page
        events = (json.loads(e["message"])["message"] for e in browser.get_log("performance"))
        asked += [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
        ]
    assert len(asked) > len(pages(CONFIG["nav"]))
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


@pytest.mark.browser
def test_the_search_finds_a_function_by_its_name(browser):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    show(browser, "index.html")
    field = browser.find_element(By.CSS_SELECTOR, "input[data-md-component=search-query]")
    WebDriverWait(browser, 60).until(lambda _: field.is_displayed())
    field.click()
    field.send_keys("stable_gamma")
    results = WebDriverWait(browser, 60).until(
        lambda _: browser.find_elements(By.CSS_SELECTOR, ".md-search-result__item a")
    )
    targets = [link.get_attribute("href") for link in results]
    found = re.compile(r"reference/sim\.html(\?[^#]*)?#sim\.stable_gamma$")
    assert any(found.search(target) for target in targets), targets


@pytest.mark.browser
def test_formulas_are_set(browser):
    show(browser, "theory/derivations.html")
    heights = browser.execute_script(
        "return [...document.querySelectorAll('math')].map(m => m.getBoundingClientRect().height)"
    )
    assert len(heights) > 300
    assert min(heights) > 8
    # A fraction is as high as two lines: it is set, not spelled out.
    fraction = browser.execute_script(
        "return document.querySelector('mfrac').getBoundingClientRect().height"
    )
    assert fraction > 25
    text = browser.execute_script("return document.body.innerText")
    assert "\\frac" not in text
    assert "$$" not in text


@pytest.mark.browser
def test_examples_are_code_and_pictures_are_there(browser):
    show(browser, "reference/hessian.html")
    assert browser.execute_script(
        "return [...document.querySelectorAll('code')]"
        ".some(c => c.innerText.includes('>>> ') && c.querySelector('span.gp'))"
    )
    assert not browser.execute_script(
        "return [...document.querySelectorAll('blockquote')].some(b => b.innerText.includes('>>>'))"
    )
    pictures = 0
    for page in pages(CONFIG["nav"]):
        show(browser, html(page))
        shapes = browser.execute_script(
            "return [...document.querySelectorAll('article img, article .picture svg')].map(i => "
            "[i.getAttribute('alt') || i.getAttribute('aria-label'), i.complete !== false, "
            "i.getBoundingClientRect().width])"
        )
        pictures += len(shapes)
        assert all(text and whole and width > 100 for text, whole, width in shapes), page
    assert pictures >= 8


@pytest.mark.browser
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_pages_are_as_wide_as_the_screen(browser, width):
    for page in pages(CONFIG["nav"]):
        show(browser, html(page), width)
        across = browser.execute_script("return document.documentElement.scrollWidth")
        assert across <= width, page
