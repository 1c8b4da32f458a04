"""The page below a path prefix: mounted in another application, or behind a proxy that takes the
prefix off.
"""

import re
from importlib.resources import files
from types import SimpleNamespace
from urllib.parse import urljoin

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from sidar.config import Config
from sidar.serve import create_app
from sidar.serve.info import BundleInfo
from sidar.serve.plan import Defaults

PAGE = files("sidar.serve.http") / "page"


def model():
    defaults = Defaults("sft", 4, False, None, False, "none", False, 3)
    return SimpleNamespace(info=BundleInfo("h", 3, (2, 2), ("lamp",), 0, defaults))


def mounted(prefix):
    outer = FastAPI()
    outer.mount(prefix, create_app(model()))
    return TestClient(outer)


@pytest.mark.parametrize("prefix", ["/shop", "/a/b"])
def test_every_link_of_the_page_answers_below_the_prefix(prefix):
    client = mounted(prefix)
    page = client.get(f"{prefix}/")
    assert page.status_code == 200
    links = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert len(links) == 5
    for link in links:
        address = urljoin(f"{prefix}/", link)
        assert address.startswith(f"{prefix}/")
        assert client.get(address).status_code == 200
    assert client.get(prefix).url.path == f"{prefix}/"  # relative links need the slash
    assert client.get(f"{prefix}/v1/info").json()["examples"] == ["lamp"]


def test_a_server_that_knows_its_prefix_answers_and_describes_itself_there():
    client = TestClient(create_app(model()), root_path="/shop")
    for path in ("/shop/", "/shop/page/app.js", "/shop/v1/info", "/shop/readyz", "/v1/info"):
        assert client.get(path).status_code == 200, path
    assert client.get("/shop/openapi.json").json()["servers"] == [{"url": "/shop"}]


@pytest.mark.parametrize(
    "name",
    sorted(file.name for file in PAGE.iterdir() if file.name.endswith((".js", ".css", ".html"))),
)
def test_no_file_of_the_page_names_the_root_of_the_server(name):
    text = (PAGE / name).read_text()
    assert not re.search(r"""(?:fetch\(|from |import |href=|src=|url\()\s*["'`]?/""", text)


def test_scripts_reach_the_api_beside_their_own_folder():
    scripts = "".join(file.read_text() for file in sorted(PAGE.glob("*.js")))
    asked = re.findall(r'(?:get|post|bytes)\(["`](v1/[^"`?]+)', scripts)
    assert {"v1/info", "v1/search", "v1/compare", "v1/catalogue/shelf"} <= set(asked)
    # every request goes through one function, and each address is made by another
    assert scripts.count("fetch(") == scripts.count("fetch(address(path)") == 1
    assert scripts.count("import.meta.url") == 1
    assert "new URL(`../${path}`, import.meta.url)" in scripts
    for path in asked:
        assert urljoin("http://host/shop/page/app.js", f"../{path}") == f"http://host/shop/{path}"


@pytest.mark.parametrize(
    ("written", "path"), [("shop/", "/shop"), ("/a/b/", "/a/b"), ("/", ""), ("", "")]
)
def test_the_prefix_is_written_with_or_without_slashes(written, path):
    assert Config.model_validate({"serve": {"root_path": written}}).serve.root_path == path
