"""The built pages, opened in a real browser, and read as text: what a reader would meet."""

from __future__ import annotations

import functools
import html.parser
import http.server
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

from tools.book import site_key
from tools.execution import ROOT, Book

pytestmark = [pytest.mark.site, pytest.mark.timeout(300)]

HTML = Book().build / "html"
PAGES = [
    "book/" + p.relative_to(ROOT / "book").with_suffix(".html").as_posix()
    for name in re.findall(r"(?:file|root): *(\S+)", (ROOT / "_toc.yml").read_text())
    if (p := ROOT / f"{name}.md").exists()
]
CHAPTERS = [
    p.relative_to(ROOT).with_suffix(".html").as_posix()
    for p in Book().chapters()
    if p.relative_to(ROOT).with_suffix(".html").as_posix() in PAGES
]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: Path(p).stem)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module", autouse=True)
def site(request) -> Path:
    """The built site, which must be the one that the sources as they are would give."""
    asked = request.config.option.markexpr == "site" or os.environ.get("CI") == "true"
    try:
        built = (HTML / ".key").exists() and (HTML / ".key").read_text() == site_key(Book())
        why = "the site is not built from the sources as they are: `make site`, then `-m site`"
    except SystemExit as stale_chapter:
        built, why = False, str(stale_chapter)
    if not built and asked:
        pytest.exit(why, returncode=1)
    elif not built:
        pytest.skip(why)
    return HTML


@pytest.fixture(scope="module")
def server(site) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = "no Chromium: install the package `chromium` to look at the pages in a browser"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Visit:
    """One page in one window, and what went wrong while it was open."""

    def __init__(
        self, browser, server: str, page: str, *, width: int = 1280, scheme: str = "light"
    ):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme
        )
        self.context.set_default_timeout(120_000)  # for busy machines: nothing waits that long
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.external: list[str] = []
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("response", self.see)
        self.page.on("requestfailed", lambda r: self.errors.append(f"not loaded: {r.url[:200]}"))
        self.server = server
        self.page.goto(server + page, wait_until="load")
        # Mathematics and widgets are drawn by scripts: wait until they are, or fail here.
        self.page.wait_for_function(
            "() => !document.querySelector('.math') || window.MathJax?.startup"
        )
        self.page.evaluate("() => window.MathJax?.startup?.promise")
        if self.page.locator("script[type='application/vnd.jupyter.widget-view+json']").count():
            self.page.wait_for_selector(".jupyter-widgets")
            self.page.wait_for_timeout(300)

    def see(self, response) -> None:
        url = response.url
        if not url.startswith((self.server, "data:", "blob:", "about:")):
            self.external.append(url)
        elif response.status >= 400:
            self.errors.append(f"{response.status} {url}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_) -> None:
        self.context.close()


@pytest.fixture(scope="module")
def desk(request, browser, server) -> Iterator[Visit]:
    """A page on a desk, in light mode; the tests of a page share one visit."""
    with Visit(browser, server, request.param) as visit:
        yield visit


@pytest.fixture(scope="module")
def phone(request, browser, server) -> Iterator[Visit]:
    """A page on a phone, in dark mode."""
    with Visit(browser, server, request.param, width=390, scheme="dark") as visit:
        yield visit


def changes(look: Callable[[], object], before: object) -> bool:
    """Wait until what one sees is no longer what it was before, for ten seconds at most."""
    end = time.monotonic() + 10
    while look() == before and time.monotonic() < end:
        time.sleep(0.05)
    return look() != before


def each(fixture: str, pages: list[str]):
    return pytest.mark.parametrize(fixture, pages, indirect=True, ids=[Path(p).stem for p in pages])


# ---- every page ----------------------------------------------------------------------------


@each("desk", PAGES)
def test_page_opens_without_errors_and_from_here_alone(desk):
    assert desk.errors == []
    assert desk.external == []
    broken = desk.page.evaluate(
        "() => [...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)"
    )
    assert broken == []


@each("desk", PAGES)
def test_mathematics_is_typeset(desk):
    raw, errors = desk.page.evaluate(
        """() => [
            [...document.querySelectorAll('.math')]
                .filter(m => !m.querySelector('mjx-container')).map(m => m.textContent),
            [...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(m => m.textContent),
        ]"""
    )
    assert raw == []
    assert errors == []


@each("phone", PAGES)
def test_dark_mode_alters_no_picture(phone):
    assert phone.page.evaluate("() => document.documentElement.dataset.theme") == "dark"
    altered = phone.page.evaluate(
        """() => [...document.querySelectorAll('.bd-main img')].filter(i => {
            for (let e = i; e; e = e.parentElement) {
                const s = getComputedStyle(e);
                if (s.filter !== 'none' || s.mixBlendMode !== 'normal') return true;
            }
        }).map(i => i.alt)"""
    )
    assert altered == []


@each("phone", PAGES)
def test_a_phone_needs_no_sideways_scrolling(phone):
    assert phone.page.evaluate("() => document.documentElement.scrollWidth") <= 391
    assert phone.errors == []


# ---- every chapter -------------------------------------------------------------------------


# The pictures and tables that a slider shows.
SHOWN = """e => [...e.closest('.widget-subarea').querySelectorAll('img, table')]
    .filter(i => i.offsetParent).map(i => i.src || i.innerText)"""


@each("desk", CHAPTERS)
def test_sliders_change_what_is_shown_without_a_kernel(desk):
    handles = desk.page.locator(".widget-subarea .noUi-handle")
    assert handles.count() > 0, "no slider on the page"
    for handle in handles.all():
        before = handle.evaluate(SHOWN)
        assert before, "a slider without a picture or a table"
        handle.focus()
        at_end = handle.get_attribute("aria-valuenow") == handle.get_attribute("aria-valuemax")
        handle.press("ArrowLeft" if at_end else "ArrowRight")
        assert changes(functools.partial(handle.evaluate, SHOWN), before)
    assert desk.errors == []


@each("desk", CHAPTERS)
def test_a_slider_can_be_dragged(desk):
    slider = desk.page.locator(".widget-subarea .noUi-target").first
    slider.scroll_into_view_if_needed()

    def drag_to(end: int) -> None:
        handle, box = slider.locator(".noUi-handle").bounding_box(), slider.bounding_box()
        middle = box["y"] + box["height"] / 2
        desk.page.mouse.move(handle["x"] + handle["width"] / 2, middle)
        desk.page.mouse.down()
        desk.page.mouse.move(box["x"] + end * box["width"], middle, steps=5)
        desk.page.mouse.up()

    drag_to(0)
    left = slider.evaluate(SHOWN)
    assert left
    drag_to(1)
    assert changes(lambda: slider.evaluate(SHOWN), left)


@each("desk", CHAPTERS)
def test_folded_solutions_open(desk):
    folded = desk.page.locator("div.solution.dropdown")
    assert folded.count() > 0, "no folded solution on the page"
    for solution in folded.all():
        content = solution.locator(":scope > :not(.admonition-title)").last
        assert content.is_hidden() or not content.bounding_box()["height"]
        solution.locator(".toggle-button").first.click()
        content.wait_for(state="visible")


@each("desk", CHAPTERS)
def test_the_quiz_gives_feedback(desk):
    quizzes = desk.page.locator(".Quiz")
    assert quizzes.count() > 0, "no quiz on the page"
    for quiz in quizzes.all():
        answers = quiz.locator("label.MCButton")
        if answers.count():  # not a number to be typed
            answers.first.click()
            assert changes(quiz.locator(".Feedback").first.inner_text, "")
    assert desk.errors == []


# ---- the text of the pages --------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """The links, the anchors and the pictures of one file."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.without_alt: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attrs):
        a = {k: v or "" for k, v in attrs}
        self.ids |= {a.get("id", ""), a.get("name", "")}
        if tag == "a" and "href" in a:
            self.links.append(a["href"])
        if tag in ("img", "script", "iframe", "source") and "src" in a:
            self.loads.append(a["src"])
        if tag == "link" and a.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.append(a["href"])
        if tag == "img" and not a.get("alt", "").strip():
            self.without_alt.append(a.get("src", "")[:80])


@functools.cache
def read(path: Path) -> Page:
    return Page(path)


@each_page
def test_no_broken_internal_link(site, page):
    broken = []
    for link in read(site / page).links + read(site / page).loads:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        path, anchor = urldefrag(unquote(parts._replace(query="").geturl()))
        target = (site / page).parent / path if path else site / page
        if not target.exists() or (
            anchor and target.suffix == ".html" and anchor not in read(target).ids
        ):
            broken.append(link)
    assert broken == []


@each_page
def test_nothing_is_loaded_from_elsewhere(site, page):
    assert [s[:100] for s in read(site / page).loads if re.match(r"(https?:)?//", s)] == []


@each_page
def test_pictures_have_alt_text(site, page):
    assert read(site / page).without_alt == []


@each_page
def test_no_path_of_this_machine_is_on_a_page(site, page):
    text = (site / page).read_text()
    assert str(ROOT) not in text
    assert str(Path.home()) + "/" not in text


def test_the_front_page_leads_to_the_book(site):
    assert "book/intro.html" in (site / "index.html").read_text()
