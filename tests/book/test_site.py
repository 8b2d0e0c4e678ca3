"""The built site as a reader meets it: every page in Chromium, the network cut, on desk and phone, in both themes.

`make test` builds the site first. Without Chromium they are skipped on a reader's machine and fail where CI is set.
"""

import functools
import http.server
import json
import os
import re
import shutil
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup
from contents import ROOT, chapter, config, notebook_pages, pages

SITE = ROOT / "_build/html"
PAGES = [p.with_suffix(".html").as_posix() for p in pages()]
GENERATED = ["genindex.html", "_modules/lab/path.html"]  # and what Sphinx adds: an index, the sources
NOTEBOOKS = [p.with_suffix(".html").as_posix() for p in notebook_pages()]
PAPER = 680  # px between the margins of A4
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

# Another machine's fonts may be wider: WCAG 2.2, 1.4.12, asks that a text stands this spacing.
WIDER = ".bd-article * { letter-spacing: 0.12em !important; word-spacing: 0.16em !important; }"

CHECKS = Path(__file__).with_name("page_checks.js").read_text()


def check(page, name):
    """What one of page_checks.js complains about."""
    return page.evaluate(f"{CHECKS}.{name}()")


@pytest.fixture(scope="session", autouse=True)
def built():
    assert (SITE / "index.html").exists(), "there is no site: run `make book`"


@pytest.fixture(scope="session")
def address():
    """The site over http, as any static server would give it."""
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *a: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture(scope="session")
def browser():
    path = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
    if not path:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, address):
    """Open a page of the site; any request to another host, failed request or console error is a complaint."""
    complaints, contexts = [], []

    def local(route):
        if urlsplit(route.request.url).hostname == "127.0.0.1":
            return route.continue_()
        complaints.append(f"asks another host: {route.request.url}")
        route.abort()

    def open_page(path, width=1280, theme="light"):
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.route("**/*", local)
        page.on("console", lambda m: complaints.append(f"console: {m.text}") if m.type == "error" else None)
        page.on("pageerror", lambda e: complaints.append(f"script: {e}"))
        page.on("response", lambda r: complaints.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
        page.goto(address + path, wait_until="load")
        return page, complaints

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("path", PAGES + GENERATED)
def test_a_page_is_whole_and_legible_in_both_themes(visit, path, width):
    page, complaints = visit(path, width)
    complaints += check(page, "math")
    check(page, "unfold")
    complaints += check(page, "pictures")
    complaints += check(page, "overflow")
    spaced = page.add_style_tag(content=WIDER)
    complaints += [f"in wider letters: {c}" for c in check(page, "overflow")]
    spaced.evaluate("style => style.remove()")
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
        complaints += [f"{theme}: {c}" for c in check(page, "contrast")] + [
            f"{theme}: {c}" for c in check(page, "pictures")
        ]
    assert not complaints


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_a_page_is_whole_on_paper(visit, path):
    page, complaints = visit(path, theme="dark")
    complaints += check(page, "math")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    page.set_viewport_size({"width": PAPER, "height": 1000})
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    complaints += check(page, "paper") + check(page, "contrast")
    assert not complaints


def test_printing_shows_the_still_frame_and_puts_everything_back(visit):
    """A real print of the first page with an animation, read in the dark and half played."""
    page, _ = visit(next(p for p in NOTEBOOKS if parsed(SITE / p).select(".lab-animation")), theme="dark")
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    picture, slider = page.locator(".lab-animation img").first, page.locator(".lab-animation input").first
    still = picture.get_attribute("src")
    slider.evaluate("e => { e.value = 3; e.dispatchEvent(new Event('input')); }")
    played = picture.get_attribute("src")
    state = """() => [document.documentElement.dataset.theme, document.querySelector(".lab-animation img").src,
                      document.querySelectorAll("article details:not(.hide):not([open])").length]"""
    before = page.evaluate(state)
    page.evaluate(f"() => addEventListener('beforeprint', () => {{ window.printed = ({state})(); }})")
    page.pdf(format="A4")
    assert before[:2] == ["dark", played] and before[2] and played != still
    assert page.evaluate("printed") == ["light", still, 0]
    assert page.evaluate(state) == before


def test_no_page_says_where_it_was_built():
    """A path of this machine, in a signature say, is of no use to a reader, and as wide as the path is long."""
    assert [p.relative_to(SITE) for p in SITE.rglob("*.html") if str(ROOT) in p.read_text(encoding="utf-8")] == []


@pytest.mark.parametrize("path", PAGES)
def test_search_finds_a_word_of_the_page(visit, path):
    article = BeautifulSoup((SITE / path).read_text(), "html.parser").find("article")
    headings = " ".join(h.get_text() for h in article.find_all(["h1", "h2"]))
    word = max(re.findall(r"[A-Za-z]{4,}", headings), key=len)
    page, complaints = visit(f"search.html?q={word}")
    page.wait_for_selector(f"#search-results li a[href*='{Path(path).stem}.html']", timeout=15_000)
    assert not complaints


def test_one_search_box_is_shown(visit):
    page, _ = visit(PAGES[0])
    assert (
        page.evaluate("[...document.querySelectorAll('.search-button-field')].filter(e => e.checkVisibility()).length")
        == 1
    )


def test_a_page_opened_as_a_file_is_readable(browser):
    page = browser.new_page()
    asked = []
    page.on("request", lambda r: asked.append(r.url) if not r.url.startswith(("file:", "data:", "blob:")) else None)
    page.goto((SITE / PAGES[-1]).as_uri())
    assert page.inner_text("h1") and not check(page, "math") and not asked
    page.close()


@functools.cache
def parsed(file):
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")


@pytest.mark.parametrize("path", PAGES)
def test_only_a_chapter_bears_a_number_wherever_its_title_stands(path):
    """In the tab, the heading, on paper, in the sidebar, before and after; the text's own links say "chapter 3"."""
    soup, i = parsed(SITE / path), PAGES.index(path)
    titles = [soup.title, *soup.select("article h1, #jb-print-docs-body h1, nav.bd-links li.current > a")]
    assert len(titles) == 4 and {is_numbered(t) for t in titles} == {chapter(path)}
    others = [PAGES[i - 1]] * (i > 0) + PAGES[i + 1 : i + 2]
    assert [is_numbered(t) for t in soup.select(".prev-next-title")] == list(map(chapter, others))
    assert [is_numbered(a) for a in soup.select("nav.bd-links ul a")] == list(map(chapter, PAGES))
    assert all(is_numbered(a) is None for a in soup.select("article a.internal"))


def is_numbered(title):
    """The 3 of "3 · A VAE for counts", or None."""
    number = re.match(r"(\d+) · ", title.get_text().strip())
    return number and int(number[1])


@pytest.mark.parametrize("path", PAGES)
def test_the_data_pages_are_folded_in_the_sidebar_unless_one_is_read(path):
    (part,) = parsed(SITE / path).select("nav.bd-links details")
    links = part.find_all("a")
    assert part.summary.get_text(strip=True) == "Data" and len(links) == sum("/data-" in p for p in PAGES)
    assert part.has_attr("open") == ("/data-" in path)
    assert all("data-" in a["href"] or a["href"] == "#" for a in links)


@pytest.mark.parametrize("file", sorted(SITE.rglob("*.html")), ids=lambda f: f.relative_to(SITE).as_posix())
def test_an_id_stands_once_on_its_page(file):
    ids = Counter(e["id"] for e in parsed(file).find_all(id=True))
    assert [i for i, times in ids.items() if times > 1] == []


@pytest.mark.parametrize("path", PAGES)
def test_every_internal_link_leads_somewhere(path):
    broken = []
    for a in parsed(SITE / path).find_all("a", href=True):
        url = urlsplit(a["href"])
        if url.scheme or a["href"].startswith("//"):
            continue
        target = (SITE / path).parent / unquote(url.path) if url.path else SITE / path
        if not target.exists():
            broken.append(a["href"])
        elif url.fragment and target.suffix == ".html" and not parsed(target.resolve()).find(id=unquote(url.fragment)):
            broken.append(a["href"])
    assert not broken


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_the_launch_buttons_open_a_notebook_that_exists(path):
    links = [a["href"] for a in parsed(SITE / path).find_all("a", href=True)]
    repository = config()["repository"]
    where = repository["url"].removeprefix("https://github.com/")
    colab = [u.split(f"/{where}/blob/{repository['branch']}/")[1] for u in links if "colab.research.google.com" in u]
    binder = [
        u.split("lab/tree/")[1] for u in links if "mybinder.org" in u and f"/gh/{where}/{repository['branch']}" in u
    ]
    assert colab == binder == [path.replace(".html", ".ipynb")]
    assert (ROOT / colab[0]).exists()


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_site_and_notebook_number_figures_and_exercises_alike(path):
    article = parsed(SITE / path).find("article")
    cells = json.loads((ROOT / path.replace(".html", ".ipynb")).read_text())["cells"]
    notebook = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    figures = [re.search(r"\d+(\.\d+)?", c.get_text())[0] for c in article.select("figcaption .caption-number")]
    assert figures == re.findall(r"^\*\*Figure (\d+(?:\.\d+)?)\.\*\*", notebook, re.M)
    equations = [e.get_text().strip("()#") for e in article.select("div.math > .eqno")]
    assert equations == re.findall(r"\\tag\{(\d+)\}", notebook)
    exercises = [re.search(r"\d+(\.\d+)?", t.get_text())[0] for t in article.select("div.exercise > .admonition-title")]
    assert exercises == re.findall(r"^### Exercise (\d+(?:\.\d+)?)", notebook, re.M)


@pytest.mark.parametrize("path", PAGES)
def test_pictures_are_light(path):
    heavy = [
        i["src"]
        for i in parsed(SITE / path).select("article img[src]")
        if not i["src"].startswith("data:") and ((SITE / path).parent / unquote(i["src"])).stat().st_size > 200_000
    ]
    assert not heavy
