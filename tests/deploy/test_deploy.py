"""The files of deploy/: they parse, name what is there, and keep what a reviewer would ask for."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from sidar.config import load_config
from sidar.serve.http.observe.metrics import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
#: Metrics of Prometheus itself.
GIVEN = {"up"}
#: Functions and words of PromQL that the files use; another one must be added on purpose.
FUNCTIONS = {"rate", "sum", "max", "count", "histogram_quantile"}
WORDS = {"by", "on", "unless", *FUNCTIONS}
#: Labels that a scrape adds to the server's own.
SCRAPED = {"instance", "job"}


def served_names():
    """{sample that /metrics can have: its labels}, from the registry."""
    names = {}
    for metric in Metrics().registry.collect():
        kept = next(
            collector
            for collector, known in Metrics().registry._collector_to_names.items()
            if metric.name in known
        )
        labels = set(kept._labelnames)
        ends = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
        for end in ends[metric.type]:
            names[metric.name + end] = labels | ({"le"} if end == "_bucket" else set())
    return names


def dashboard():
    return json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())


def rules():
    return [
        rule
        for group in yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]


def expressions():
    """(where, expression) of every query."""
    found = [(f"alert {rule['alert']}", rule["expr"]) for rule in rules()]
    for panel in dashboard()["panels"]:
        found += [(f"panel {panel['title']}", target["expr"]) for target in panel["targets"]]
    return found


def balanced(text):
    """Whether brackets of all kinds close in order, outside of strings."""
    pairs, open_ones = {")": "(", "}": "{", "]": "["}, []
    for mark in re.sub(r'"[^"]*"', "", text):
        if mark in pairs.values():
            open_ones.append(mark)
        elif mark in pairs and (not open_ones or open_ones.pop() != pairs[mark]):
            return False
    return not open_ones


def problems(expression, served):
    """What is wrong with an expression of PromQL, in words."""
    wrong = [] if balanced(expression) else ["brackets"]
    plain = re.sub(r'"[^"]*"', '""', expression)
    selectors = re.findall(r"(\w+)\{([^}]*)\}", plain)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", plain)
    grouped = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", bare)
    bare = re.sub(r"\b(by|on)\s*\([^)]*\)", r"\1", bare)
    metrics = set(re.findall(r"\b[a-z_]\w*", bare)) - WORDS
    wrong += [f"no metric {name}" for name in metrics - served.keys() - GIVEN]
    for name, labels in selectors:
        used = {pair.partition("=")[0].strip(" ~!") for pair in labels.split(",")}
        wrong += [f"{name} has no {label}" for label in used - served.get(name, set()) - SCRAPED]
    known = SCRAPED.union(*(served.get(name, set()) for name in metrics))
    for group in grouped:
        labels = {label.strip() for label in group.split(",")}
        wrong += [f"nothing has {label}" for label in labels - known]
    for name in metrics:
        counted = name.endswith(("_total", "_bucket", "_sum", "_count"))
        ranged = re.search(rf"rate\(\s*{name}(\{{[^}}]*\}})?\[", plain)
        if counted != bool(ranged):
            wrong.append(f"{name}: rate is for what only grows, and needs a range")
    return wrong


def test_queries_name_what_the_server_serves():
    served = served_names()
    assert {
        where: found for where, text in expressions() if (found := problems(text, served))
    } == {}


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("sum(rate(sidar_requests_total[5m])", "brackets"),
        ("rate(sidar_request_total[5m])", "no metric sidar_request_total"),
        ('rate(sidar_requests_total{code="500"}[5m])', "sidar_requests_total has no code"),
        ("sum by (reason) (rate(sidar_requests_total[5m]))", "nothing has reason"),
        ("sum(sidar_requests_total)", "sidar_requests_total: rate"),
        ("rate(sidar_waiting[5m])", "sidar_waiting: rate"),
        ("avg(sidar_waiting)", "no metric avg"),
    ],
)
def test_what_is_wrong_is_seen(expression, problem):
    assert any(words.startswith(problem) for words in problems(expression, served_names()))


def test_every_metric_is_shown_or_watched():
    text = " ".join(expression for _, expression in expressions())
    families = {re.sub("_(total|bucket|sum|count)$", "", name) for name in served_names()}
    assert {name for name in families if name not in text} == set()


def test_alerts_say_how_bad_they_are_and_what_to_do():
    headings = re.findall(r"^## (.*)$", (ROOT / "docs/runbook.md").read_text(), re.MULTILINE)
    anchors = {heading.lower().replace(" ", "-") for heading in headings}
    assert len({rule["alert"] for rule in rules()}) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert re.fullmatch(r"\d+[smh]", rule["for"])
        assert rule["annotations"]["summary"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/runbook.md"
        assert anchor in anchors


def test_the_dashboard_has_room_for_its_panels():
    board = dashboard()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not taken & cells, panel["title"]
        taken |= cells
    variables = {f"${variable['name']}" for variable in board["templating"]["list"]}
    used = set(re.findall(r"\$\w+", json.dumps(board).replace("${source}", "$source")))
    assert used <= variables | {"$__rate_interval"}


def test_every_yaml_parses_and_the_service_is_a_config():
    files = [*DEPLOY.rglob("*.yaml"), *DEPLOY.rglob("*.yml")]
    assert len(files) == 6
    assert all(yaml.safe_load(file.read_text()) for file in files)
    serve = load_config(DEPLOY / "sidar.yaml").serve
    assert serve.log.format == "json"
    assert (serve.log.queries, serve.log.users, serve.keys) == (False, False, [])


def dockerfile():
    """The instructions, (word, rest), lines that go on put together."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(maxsplit=1)) for line in lines]


def test_the_image_is_pinned_small_and_not_of_root():
    steps = dockerfile()
    bases = [rest.split()[0] for word, rest in steps if word == "FROM"]
    assert all(re.fullmatch(r"python:3\.\d+\.\d+-slim-\w+", base) for base in bases)
    assert len(set(bases)) == 1
    (user,) = [rest for word, rest in steps if word == "USER"]
    assert int(user) > 0
    last = [word for word, _ in steps]
    assert last.index("USER") < last.index("ENTRYPOINT")
    copied = [path for word, rest in steps if word == "COPY" for path in rest.split()[:-1]]
    here = [path for path in copied if not path.startswith(("--", "/"))]
    assert all((ROOT / path).exists() for path in here)
    ignore = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore
    assert {path.removeprefix("./") for path in here} == {
        line[1:] for line in ignore if line.startswith("!")
    }
    for word, rest in steps:
        assert word != "ADD"
        assert not (word in {"ENV", "ARG"} and re.search("key|secret|passw|token", rest, re.I))
        assert not (word == "RUN" and "pip install" in rest and "-c constraints.txt" not in rest)
        if word in {"ENTRYPOINT", "CMD", "HEALTHCHECK"}:
            assert isinstance(json.loads(rest[rest.index("[") :]), list)


def test_the_commands_have_the_options_that_they_use():
    import typer

    from sidar.cli import app

    serve = typer.main.get_command(app).commands["serve"]
    known = {option for param in serve.params for option in param.opts}
    unit = (DEPLOY / "sidar.service").read_text()
    (started,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    container = " ".join(rest for word, rest in dockerfile() if word in {"ENTRYPOINT", "CMD"})
    for text in (started, container):
        used = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", text))
        assert {"-c", "--bundle"} <= used <= known


def test_compose_publishes_on_loopback_and_waits_for_the_drain():
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    services = compose["services"]
    drain = load_config(DEPLOY / "sidar.yaml").serve.drain_seconds
    unit = (DEPLOY / "sidar.service").read_text()
    assert int(services["sidar"]["stop_grace_period"].removesuffix("s")) > drain
    assert int(re.search(r"TimeoutStopSec=(\d+)", unit)[1]) > drain
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert name == "sidar" or service["profiles"]
        assert name == "sidar" or re.search(r":v?\d+\.\d+", service["image"])
        mounted = [volume.split(":")[0] for volume in service["volumes"]]
        for source in mounted:
            if source.startswith("./"):
                assert (DEPLOY / source).exists()
            elif not source.startswith("$"):
                assert source in compose["volumes"]
        for secret in service.get("secrets", []):
            assert compose["secrets"][secret]["file"].startswith("./secrets/")
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_no_file_holds_a_secret():
    for file in DEPLOY.rglob("*"):
        if file.is_file():
            text = file.read_text()
            assert not re.search(r"(?i)password\"?\s*[:=]\s*['\"]?\w", text), file.name
            assert not re.search(r"\b[0-9a-f]{32,}\b", text), file.name


def test_systemd_takes_the_unit(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    unit = tmp_path / "sidar.service"
    text = (DEPLOY / "sidar.service").read_text()
    # it looks for the program, which is not installed here
    unit.write_text(text.replace("/opt/sidar/bin/sidar", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
