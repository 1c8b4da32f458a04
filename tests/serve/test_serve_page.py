"""The page in a real browser: every view, by pointer and by keyboard, light and dark, and products
that try to be scripts. One server and one browser for all of it.
"""

import hashlib
import json
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
import required
import uvicorn
from shop import mixed_table, write_bundle, write_stages

from sidar import Retriever
from sidar.artifacts import read_manifest, write_artifact
from sidar.config.serve import KeyConfig, ServeConfig
from sidar.data import toy
from sidar.data.catalogue import found
from sidar.serve import create_app

EVIL = '<img src=x onerror="window.owned=1"><script>window.owned=2</script>'
KEY = "the-admins-key"
AXE = Path(__file__).parent / "axe" / "axe.min.js"
VIEWS = ("search", "compare", "shelf", "latency", "report")


def evil_shop():
    """The toy shop whose text fields all carry markup."""
    columns = toy.catalogue().table.to_pydict()
    columns["title"] = [f"{title} {EVIL}" for title in columns["title"]]
    columns["brand"] = [EVIL] * 64
    columns["image_url"] = ["javascript:window.owned=3", '"><svg onload=window.owned=4>'] * 32
    columns["category"] = [[*path, EVIL] for path in columns["category"]]
    columns["attributes"] = [
        json.dumps(json.loads(raw) | {EVIL: "x", "mark up": EVIL}) for raw in columns["attributes"]
    ]
    return found(pa.table(columns, schema=toy.catalogue().table.schema))


def write_report(run):
    """The stage ``evaluate`` of a run, whose report tries to be a script."""
    inputs = {"sft": read_manifest(run / "sft").hash}
    with write_artifact(run / "evaluate", "evaluate", config={}, inputs=inputs) as draft:
        page = "<h1>nDCG@10 of the run</h1><script>parent.owned = 5; window.owned = 5</script>"
        (draft.path / "report.html").write_text(page)


@pytest.fixture(scope="module")
def browser():
    chromium = required.binary("chromium", "chromium-browser", "google-chrome")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


@pytest.fixture(scope="module")
def address(browser, fused_shop, tmp_path_factory):
    """A server with a fused bundle, one full of markup, one of mixed lengths, and one to load."""
    runs = tmp_path_factory.mktemp("runs")
    folders = {
        "fused": fused_shop / "runs" / "shop" / "bundle",
        "evil": write_bundle(write_stages(runs / "evil", evil_shop()), "evil"),
        "mixed": write_bundle(write_stages(runs / "mixed", sids=mixed_table()), "mixed"),
    }
    write_report(runs / "evil")
    monday = write_bundle(write_stages(runs / "monday", seed=3), "monday")
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    config = ServeConfig(
        bundles={"monday": str(monday)},
        keys=[KeyConfig(name="admin", sha256=digest, role="admin")],
    )
    shops = {name: Retriever.load(at, precision="fp32") for name, at in folders.items()}
    app = create_app(shops, config=config)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture
def visit(browser, address):
    """``visit(path)`` → a page there; afterwards nothing may have gone wrong or elsewhere."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(20_000)
    complaints, foreign = [], []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: line.type == "error" and complaints.append(line.text))
    page.on(
        "request",
        lambda request: request.url.startswith((address, "data:")) or foreign.append(request.url),
    )

    def go(path=""):
        page.goto(f"{address}/{path}")
        return page

    yield go
    assert page.evaluate("window.owned") is None
    # refusals that a test asks for, and the report's own scripts, which its sandbox refuses
    expected = (
        "status of 401",
        "status of 422",
        "status of 404",
        "Blocked script execution",
        "sandbox",
    )
    assert [c for c in complaints if not any(words in c for words in expected)] == []
    assert foreign == []
    context.close()


def expect(locator):
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)
    return expect(locator)


def settle(page):
    """Wait until the page has shown what it was asked last."""
    expect(page.locator("#view-search .answer")).to_have_attribute("aria-busy", "false")


def test_a_visit(visit):
    page = visit("?model=evil")
    expect(page.locator("#facts")).to_contain_text("64 products")
    expect(page.locator("#query")).to_be_focused()
    page.fill("#query", EVIL)
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(10)
    expect(page.locator("#view-search .level")).to_have_count(3)
    assert EVIL in page.locator(".card h3").first.inner_text()
    expect(page.locator("#facets")).to_contain_text(EVIL)

    first = page.locator(".card").first
    sid = first.get_attribute("data-sid")
    first.hover()
    lit = page.locator(".node.on").evaluate_all("nodes => nodes.map(node => node.dataset.sid)")
    assert lit
    assert all(sid == each or sid.startswith(f"{each}-") for each in lit)
    assert page.locator(".tree path.on").count() >= 1

    first.locator(".add").click()
    expect(page.locator("#history button")).to_have_count(1)
    page.locator("#history button").click()
    expect(page.locator("#history")).to_be_hidden()

    page.evaluate("document.getElementById('beam').value = '5000'")
    page.locator("#examples button").first.click()
    words = "beam: 5,000 is above this server's limit of 1,024"
    expect(page.locator("#banner")).to_contain_text(words)
    for view in VIEWS:
        page.set_viewport_size({"width": 390, "height": 800})
        page.locator(f'nav a[href="#{view}"]').click()
        expect(page.locator(f"#view-{view}")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, view


def test_ids_of_several_lengths_show_where_they_end(visit):
    page = visit("?q=towel&model=mixed")
    expect(page.locator(".card")).to_have_count(10)
    expect(page.locator("#view-search .level > header").first).to_contain_text("ends ")
    cards = page.locator(".card").evaluate_all("cards => cards.map(card => card.dataset.sid)")
    short = next(at for at, sid in enumerate(cards) if sid.count("-") < 2)
    card = page.locator(".card").nth(short)
    assert "probability" in card.locator(".chip.end").get_attribute("title")
    card.hover()
    lit = page.locator(".node.on").evaluate_all("nodes => nodes.map(node => node.dataset.sid)")
    assert cards[short] in lit
    # nothing below it
    assert all(cards[short] == each or cards[short].startswith(f"{each}-") for each in lit)


def test_the_filter_line_is_completed_by_keyboard_and_shows_what_is_cut(visit):
    page = visit("?q=towel&model=mixed")
    expect(page.locator(".card")).to_have_count(10)
    line = page.locator("#filter")
    line.press_sequentially("pri")
    prices = [price for price in toy.catalogue().column("price") if price is not None]
    note = f"pricenumbers, {min(prices):g} to {max(prices):g}"
    expect(page.locator("#filter-list li")).to_have_text([note])
    expect(line).to_have_attribute("aria-expanded", "true")
    line.press("ArrowDown")
    marked = page.locator('#filter-list [aria-selected="true"]')
    assert line.get_attribute("aria-activedescendant") == marked.get_attribute("id")
    line.press("Enter")
    expect(line).to_have_value("price ")
    expect(page.locator("#filter-list li").first).to_contain_text("below")
    line.press_sequentially("< 20 AND bra")
    line.press("ArrowDown")
    line.press("Tab")
    line.press_sequentially("IN")
    line.press("ArrowDown")
    line.press("Enter")
    line.press_sequentially("oak")
    expect(page.locator("#filter-list li").first).to_contain_text("Oakling")
    line.press("ArrowDown")
    line.press("Enter")
    expect(line).to_have_value("price < 20 AND brand IN [Oakling")
    line.press("Escape")
    expect(page.locator("#filter-list")).to_be_hidden()

    line.press("Enter")
    expect(page.locator("#filter-error")).to_contain_text("want ']', got the end")
    expect(line).to_have_attribute("aria-invalid", "true")
    expect(page.locator(".card")).to_have_count(10)  # the answer before stays
    line.press("End")
    line.press_sequentially("]")
    line.press("Escape")
    line.press("Enter")
    expect(page.locator(".card")).to_have_count(2)
    expect(page.locator("#filter-error")).to_be_hidden()
    expect(page.locator("#filter-allows")).to_have_text("allows 2 items")
    expect(page.locator("#view-search .level .cuts").first).to_contain_text("Cut by the filter:")
    expect(page.locator(".node.cut").first).to_have_attribute(
        "title", re_of("the filter allows none of them")
    )
    assert "filter=price" in page.url


def re_of(words):
    import re

    return re.compile(re.escape(words))


def test_facets_narrow_and_widen_and_an_address_shows_the_same_again(visit, address):
    page = visit("?q=towel&model=mixed")
    brand = page.locator('.facet[data-key="brand"]')
    expect(brand.locator("label").first).to_be_visible()
    value = brand.locator("label span").first.inner_text()
    counted = brand.locator("label small").first.inner_text()
    brand.locator("input").first.check()
    settle(page)
    expect(page.locator("#facets-head")).to_have_text(f"{counted} of 64 products")
    expect(page.locator("#chosen code")).to_have_text(f"brand = {value}")
    # its own choice does not narrow its own counts
    expect(brand.locator("label small").nth(1)).not_to_have_text("0")
    brand.locator("input").nth(1).check()
    settle(page)
    expect(page.locator("#chosen code")).to_contain_text("brand IN [")
    price = page.locator('.facet[data-key="price"]')
    price.locator("input").nth(1).fill("60")
    price.locator("input").nth(1).press("Tab")
    expect(page.locator("#chosen code")).to_have_count(2)
    settle(page)
    head = page.locator("#facets-head").inner_text()
    shown = page.locator(".card h3").all_inner_texts()
    assert shown

    page.goto(page.url)
    expect(page.locator("#facets-head")).to_have_text(head)
    settle(page)
    assert page.locator(".card h3").all_inner_texts() == shown
    page.locator("#chosen button").first.click()
    expect(page.locator("#chosen code")).to_have_count(1)
    page.locator("#filter-clear").click()
    expect(page.locator("#facets-head")).to_have_text("64 products")


def test_why_not_this_product(visit):
    page = visit("?q=tent&model=mixed")
    expect(page.locator(".card")).to_have_count(10)
    page.evaluate("document.getElementById('beam').value = '3'")
    page.evaluate("document.getElementById('k').value = '2'")
    page.locator("button[type=submit]").first.click()
    expect(page.locator(".card")).to_have_count(2)
    page.get_by_role("button", name="Expected another?").click()
    expect(page.locator("#expected")).to_be_focused()
    shown = page.locator(".card").evaluate_all("cards => cards.map(card => card.dataset.sid)")
    ids = [f"T{shelf}0{place}" for shelf in range(8) for place in (2, 3)]
    for item_id in ids:
        page.fill("#expected", item_id)
        page.keyboard.press("Escape")
        page.keyboard.press("Enter")
        expect(page.locator("#why .verdict")).to_be_visible()
        if "gave it up" in page.locator("#why .verdict").inner_text():
            break
    expect(page.locator(".ladder .lost")).to_have_count(1)
    sid = "-".join(page.locator(".ladder .chip").all_inner_texts())
    assert sid not in shown
    rows = page.locator(".duel tr")
    expect(rows).to_have_count(2)
    assert sid.startswith(rows.nth(0).locator("code").inner_text())
    expect(page.locator(".duel caption")).to_contain_text("times as probable")
    page.fill("#expected", "nothing has this name")
    page.keyboard.press("Enter")
    expect(page.locator("#why .note")).to_contain_text("the catalogue has no")


def test_each_hit_of_a_fused_answer_says_where_it_comes_from(visit, fused_shop):
    from fused_shop import QUERY

    page = visit(f"?q={QUERY}&model=fused")
    bars = page.locator(".origins .bar")
    expect(bars.first).to_be_visible()
    told = bars.evaluate_all("bars => bars.map(bar => bar.getAttribute('aria-label'))")
    assert len(told) == page.locator(".card").count()
    assert any("memory" in words for words in told)
    assert all(words.startswith("comes from ") for words in told)
    expect(page.locator(".legend")).to_contain_text("memory")
    widths = bars.first.locator("u").evaluate_all("us => us.map(u => parseFloat(u.style.width))")
    assert sum(widths) == pytest.approx(100, abs=0.5)
    page.locator("#query").press("Tab")
    page.evaluate("document.getElementById('alone').checked = true")
    page.locator("button[type=submit]").first.click()
    expect(bars).to_have_count(0)


def test_the_shelf_is_walked_by_keyboard_down_to_a_product_and_back(visit):
    page = visit("?model=evil#shelf")
    expect(page.locator(".bucket")).to_have_count(8)
    expect(page.locator("#shelf .facts")).to_contain_text("64 products in 56 IDs")
    for depth in (1, 2, 3):
        page.locator(".bucket").first.press("Enter")
        expect(page.locator(".crumbs li")).to_have_count(depth + 1)
    expect(page.locator(".here .card").first).to_contain_text(EVIL)
    item_id = page.locator(".here code").first.inner_text()
    page.locator(".crumbs a").nth(1).click()
    expect(page.locator(".crumbs li")).to_have_count(2)
    page.go_back()
    page.locator(".here button").first.click()
    expect(page.locator("#why .verdict")).to_be_visible()
    expect(page.locator("#expected")).to_have_value(item_id)
    page.goto(page.url.split("#")[0] + "#shelf/7-3-2")
    expect(page.locator("#shelf .note")).to_contain_text("no Semantic ID begins with 7-3-2")


def test_two_bundles_side_by_side_mark_what_moved(visit):
    page = visit("?q=towel&model=evil#compare")
    expect(page.locator("#compare-lists .list")).to_have_count(2)
    page.locator(".options summary").click()
    page.fill("#key", KEY)
    page.locator("#key").press("Tab")
    page.get_by_role("button", name="Load monday").click()
    expect(page.locator("#right")).to_have_value("monday")
    page.select_option("#left", "mixed")
    lists = page.locator("#compare-lists .list")
    expect(lists.nth(0).locator("h2")).to_have_text("mixed")
    expect(lists.nth(1).locator("h2")).to_have_text("monday")
    titles = [lists.nth(side).locator("h3").all_inner_texts() for side in (0, 1)]
    marks = lists.nth(1).locator(".move").all_inner_texts()
    for now, (title, mark) in enumerate(zip(titles[1], marks, strict=True), start=1):
        words = "".join(mark.split())
        if title not in titles[0]:
            assert words == "new"
            continue
        before = titles[0].index(title) + 1
        if before == now:
            assert words == "="
        else:
            assert words.startswith("▲" if before > now else "▼")
            assert words.endswith(str(abs(before - now)))
    both = len(set(titles[0]) & set(titles[1]))
    expect(page.locator("#compare-words")).to_contain_text(f"{both} item")
    assert lists.nth(0).locator(".move.gone").count() == 10 - both
    page.locator("#compare-beams .models button", has_text="mixed").click()
    expect(page.locator("#compare-beams")).to_have_attribute("data-model", "mixed")


def test_latency_counts_the_searches_of_this_page(visit):
    page = visit("?model=mixed")
    for query in ("towel", "tent", "knife"):
        page.fill("#query", query)
        page.keyboard.press("Enter")
        expect(page.locator("#heard")).to_contain_text(query)
    page.locator('nav a[href="#latency"]').click()
    expect(page.locator("#latency caption").first).to_have_text("The last 3 searches of this page")
    expect(page.locator("#latency .scroll tbody tr")).to_have_count(3)
    expect(page.locator("#badge")).to_contain_text("p95")
    quantile = "async ([v, q]) => (await import('./page/latency.js')).quantile(v, q)"
    values = [float(v) for v in range(1, 21)][::-1]
    for q, want in ((0.5, 10.0), (0.95, 19.0), (1, 20.0)):  # nearest rank, by hand
        assert page.evaluate(quantile, [values, q]) == want
    assert page.evaluate(quantile, [[], 0.5]) is None


def test_the_report_is_framed_without_its_scripts(visit):
    page = visit("?model=evil#report")
    frame = page.frame_locator("#report iframe")
    expect(frame.locator("h1")).to_have_text("nDCG@10 of the run")
    page.locator("#models button", has_text="mixed").click()
    expect(page.locator("#report")).to_contain_text("left no evaluation report")


def test_a_key_is_asked_for_where_reading_needs_one(visit):
    page = visit("?model=mixed")

    def guard(route):
        if "authorization" in route.request.headers:
            route.continue_()
        else:
            route.fulfill(status=401, json={"error": "this needs a key that may read"})

    page.route("**/v1/info", guard)
    page.reload()
    expect(page.locator("#banner")).to_have_text(
        "this needs a key that may read. Give it under Options."
    )
    page.locator(".options summary").click()
    page.fill("#key", KEY)
    page.locator("#key").press("Tab")
    expect(page.locator("#facts")).to_contain_text("64 products")
    expect(page.locator("#banner")).to_be_hidden()
    page.reload()  # the tab keeps it
    expect(page.locator("#facts")).to_contain_text("64 products")


def test_what_may_come_next_in_a_filter_line(visit):
    page = visit("?model=mixed")
    place = "async (text) => { const m = await import('./page/complete.js');"
    place += " return m.place(m.tokens(text)); }"
    for text, want, key in (
        ("", "key", None),
        ("price", "operator", "price"),
        ("price <", "value", "price"),
        ("price < 3", "join", "price"),
        ("price < 3 AND", "key", "price"),
        ("NOT (brand", "operator", "brand"),
        ('brand = "A B"', "join", "brand"),
        ("brand IN [", "value", "brand"),
        ("brand IN [a, b", "value", "brand"),
        ("brand IN [a, b]", "join", "brand"),
        ("`screen size` >", "value", "screen size"),
        ("brand IS NOT NULL", "join", "brand"),
        ("price 10 TO 20", "join", "price"),
        ("AT LEAST 2 OF (a = 1, b", "operator", "b"),
    ):
        found_at = page.evaluate(place, text)
        assert found_at["want"] == want, text
        if key is not None and want in ("operator", "value"):
            assert found_at["key"] == key, text


def faults(page):
    """Serious and critical faults that axe-core finds, in words."""
    options = {"resultTypes": ["violations"], "iframes": False}
    report = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{one['id']}: {one['help']}: {one['nodes'][0]['html'][:120]}"
        for one in report["violations"]
        if one["impact"] in ("serious", "critical")
    ]


def test_no_view_has_a_serious_accessibility_fault(visit, fused_shop):
    from fused_shop import QUERY

    page = visit("")
    page.evaluate(AXE.read_text())
    seen = {}

    def check(name):
        settle(page)
        page.mouse.move(0, 0)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            if wrong := faults(page):
                seen[f"{name}, {scheme}"] = wrong

    expect(page.locator("#facts")).to_contain_text("products")
    check("start")
    page.fill("#query", QUERY)
    page.fill("#filter", "price < 60")
    page.keyboard.press("Enter")
    expect(page.locator(".cuts").first).to_be_visible()
    page.locator('.facet[data-key="brand"] input').first.check()
    expect(page.locator("#chosen code")).to_have_count(1)
    page.get_by_role("button", name="Expected another?").click()
    page.fill("#expected", "T305")
    page.keyboard.press("Escape")
    page.keyboard.press("Enter")
    expect(page.locator("#why > *").first).to_be_visible()
    check("search")
    page.fill("#filter", "price < 60 AND ")
    expect(page.locator("#filter-list li").first).to_be_visible()
    expect(page.locator("#filter-error")).to_be_visible()
    check("filter line")
    page.fill("#filter", "")
    for view, there in (
        ("compare", "#compare-lists .card"),
        ("shelf", ".bucket"),
        ("latency", "#latency table"),
        ("report", "#report p"),
    ):
        page.locator(f'nav a[href="#{view}"]').click()
        expect(page.locator(there).first).to_be_visible()
        check(view)
    assert not seen, json.dumps(seen, indent=1)


def test_what_is_required_is_not_skipped(monkeypatch):
    monkeypatch.setenv("SIDAR_REQUIRE", "all")
    with pytest.raises(pytest.fail.Exception, match="has no no-such-browser, and SIDAR_REQUIRE"):
        required.binary("no-such-browser")
    monkeypatch.delenv("SIDAR_REQUIRE")
    with pytest.raises(pytest.skip.Exception, match="this machine has no no-such-browser"):
        required.binary("no-such-browser")
    assert required.binary("no-such-browser", "sh").endswith("sh")
