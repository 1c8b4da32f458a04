"""The page in a real browser: search, follow a path, compare two models, and products that try to
be scripts.
"""

import shutil
import threading
import time
from contextlib import contextmanager

import pyarrow as pa
import pytest
import uvicorn
from shop import mixed_table, write_bundle, write_stages

from sidar import Retriever
from sidar.data import toy
from sidar.data.catalogue import found
from sidar.serve import create_app

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
EVIL = '<img src=x onerror="window.owned=1"><script>window.owned=2</script>'

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine to drive the page with"
)


def evil_shop():
    """The toy shop whose text fields all carry markup."""
    columns = toy.catalogue().table.to_pydict()
    columns["title"] = [f"{title} {EVIL}" for title in columns["title"]]
    columns["brand"] = [EVIL] * 64
    columns["image_url"] = ["javascript:window.owned=3", '"><svg onload=window.owned=4>'] * 32
    columns["category"] = [[*path, EVIL] for path in columns["category"]]
    return found(pa.table(columns, schema=toy.catalogue().table.schema))


@contextmanager
def served(runs):
    """The address at which the bundles of ``{label: run}`` answer."""
    app = create_app(
        {
            label: Retriever.load(write_bundle(run, label), precision="fp32")
            for label, run in runs.items()
        }
    )
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    labels = ("sft", "raddpo")
    with served(
        {
            n: write_stages(tmp_path_factory.mktemp(n), evil_shop(), seed=i)
            for i, n in enumerate(labels)
        }
    ) as at:
        yield at


def test_a_visit(address):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        complaints, foreign = [], []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console", lambda line: complaints.append(line.text) if line.type == "error" else None
        )
        page.on(
            "request",
            lambda request: (
                foreign.append(request.url) if not request.url.startswith(address) else None
            ),
        )

        page.goto(address)
        expect(page.locator("#facts")).to_contain_text("64 products")
        page.fill("#query", EVIL)
        page.keyboard.press("Enter")
        expect(page.locator(".card")).to_have_count(10)
        expect(page.locator(".level")).to_have_count(3)
        assert EVIL in page.locator(".card h3").first.inner_text()

        first = page.locator(".card").first
        sid = first.get_attribute("data-sid")
        first.hover()
        lit = page.locator(".node.on").evaluate_all("nodes => nodes.map(node => node.dataset.sid)")
        assert lit
        assert all(sid == each or sid.startswith(f"{each}-") for each in lit)
        assert page.locator(".tree path.on").count() >= 1

        first.locator(".add").click()
        expect(page.locator("#history button")).to_have_count(1)

        page.locator("#models button", has_text="Compare").click()
        expect(page.locator(".list")).to_have_count(2)
        expect(page.locator(".list").nth(1).locator(".move").first).to_be_visible()
        page.locator(".beams .models button", has_text="sft").click()
        assert "model=compare" in page.url

        page.evaluate("document.getElementById('beam').value = '5000'")
        page.locator("#examples button").first.click()
        expect(page.locator("#banner")).to_contain_text(
            "beam: 5,000 is above this server's limit of 1,024"
        )
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("window.owned") is None
        # the one that was asked for
        assert [line for line in complaints if "status of 422" not in line] == []
        assert foreign == []
        browser.close()


def test_ids_of_several_lengths_show_where_they_end(tmp_path):
    from playwright.sync_api import expect, sync_playwright

    with (
        served({"sft": write_stages(tmp_path, sids=mixed_table())}) as address,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        complaints = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{address}/?q=towel")
        expect(page.locator(".card")).to_have_count(10)
        expect(page.locator(".level").first.locator("header")).to_contain_text("ends ")
        cards = page.locator(".card").evaluate_all("cards => cards.map(card => card.dataset.sid)")
        short = next(at for at, sid in enumerate(cards) if sid.count("-") < 2)
        card = page.locator(".card").nth(short)
        assert "probability" in card.locator(".chip.end").get_attribute("title")
        card.hover()
        lit = page.locator(".node.on").evaluate_all("nodes => nodes.map(node => node.dataset.sid)")
        assert cards[short] in lit
        # nothing below it
        assert all(cards[short] == each or cards[short].startswith(f"{each}-") for each in lit)
        assert complaints == []
        page.screenshot(path=str(tmp_path / "page.png"))
        browser.close()
