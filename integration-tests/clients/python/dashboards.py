"""Runs every query of every dashboard and alert rule in grafana/ and names those without a result.

    dashboards.py URL                asks a Prometheus that already scrapes a cluster under load
    dashboards.py PORT,PORT,PORT     starts $PROMETHEUS with grafana/prometheus.yml on these metrics ports of 127.0.0.1

may-be-empty.json names the metrics that may be without a value, with the reason.
"""

import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.parse
import urllib.request

import interop

HOME = pathlib.Path(__file__).resolve().parent.parent
GRAFANA = HOME.parent.parent / "grafana"
MAY_BE_EMPTY = json.loads((HOME / "may-be-empty.json").read_text())
RATE_INTERVAL = "20s"
# Enough scrapes for a rate, at one scrape a second.
SCRAPES = 12


def get(url, path, **parameters):
    with urllib.request.urlopen(f"{url}{path}?{urllib.parse.urlencode(parameters)}", timeout=20) as answer:
        return json.loads(answer.read())


def queries():
    """(where, expression) of each query, with the variables replaced by what Grafana's "All" stands for."""
    for path in sorted((GRAFANA / "dashboards").glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.stem}: {panel['title']} {target['refId']}", substitute(target["expr"])
        for variable in board["templating"]["list"]:
            if variable["type"] == "query":
                metric = re.match(r"label_values\((\w+), *\w+\)$", variable["definition"])
                assert metric, f"{path.stem}: variable {variable['name']}: {variable['definition']}"
                yield f"{path.stem}: variable {variable['name']}", metric.group(1)
    for name, expression in alert_rules():
        yield f"alerts: {name}", alert_vector(expression)


def substitute(expression):
    expression = expression.replace("$__rate_interval", RATE_INTERVAL)
    return re.sub(r"\$(\w+)", ".*", expression)


def alert_rules():
    """Name and expression of each rule of alerts.yml, which keeps to `- alert:` and a one-line `expr:`."""
    name = None
    for line in (GRAFANA / "alerts.yml").read_text().splitlines():
        if found := re.match(r"\s*- alert: (\w+)$", line):
            name = found.group(1)
        elif found := re.match(r"\s*expr: (.*)$", line):
            yield name, found.group(1)


def alert_vector(expression):
    """The left side of `vector comparison number`: a rule that is quiet has no result, its vector must have one."""
    found = re.match(r"(.*\S)\s*(?:==|!=|<=|>=|<|>)\s*-?[\d.]+$", expression)
    assert found, f"an alert must be `vector comparison number`: {expression}"
    return re.sub(r"\[(\d+[smh])\]", f"[{RATE_INTERVAL}]", found.group(1))


def run_queries(url):
    empty, excused, failed, count = [], [], [], 0
    for where, expression in queries():
        count += 1
        try:
            result = get(url, "/api/v1/query", query=expression)["data"]["result"]
        except urllib.error.HTTPError as error:
            failed.append(f"{where}: {expression}: {error.read().decode()[:200]}")
            continue
        # A quantile of nothing is NaN, which a panel shows as no value either.
        if any(series["value"][1] != "NaN" for series in result):
            continue
        reason = next((r for metric, r in MAY_BE_EMPTY.items() if metric in expression), None)
        (excused if reason else empty).append(f"{where}: {expression}" + (f" ({reason})" if reason else ""))
    for title, lines in (("may be empty", excused), ("EMPTY", empty), ("REFUSED", failed)):
        for line in lines:
            print(f"{title}: {line}")
    good = count - len(empty) - len(failed)
    print(f"{count} queries, {len(excused)} empty for a stated reason")
    print(f"{good} passed, {len(empty) + len(failed)} failed")
    return 1 if empty or failed or not count else 0


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start_prometheus(folder, ports):
    """The configuration of grafana/, with these ports and a scrape each second."""
    text = (GRAFANA / "prometheus.yml").read_text()
    targets = "\n".join(f"          - 127.0.0.1:{port}" for port in ports)
    text, changed = re.subn(r"(- targets:\n)(?:\s+- \S+\n?)+", rf"\g<1>{targets}\n", text)
    assert changed == 1, "prometheus.yml has one list of targets"
    text = text.replace("scrape_interval: 5s", "scrape_interval: 1s").replace("scrape_timeout: 4s", "scrape_timeout: 1s")
    (folder / "prometheus.yml").write_text(text)
    (folder / "alerts.yml").write_text((GRAFANA / "alerts.yml").read_text())
    port = free_port()
    with open(folder / "prometheus.log", "wb") as log:
        process = subprocess.Popen(
            [os.environ["PROMETHEUS"], f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    return process, f"http://127.0.0.1:{port}"


def wait_scraped(url, count):
    def answered():
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    interop.wait_for("Prometheus ready", 30, answered)

    def up():
        result = get(url, "/api/v1/query", query=f'count(count_over_time(up{{job="odradek"}}[5m]) >= {SCRAPES})')
        good = get(url, "/api/v1/query", query='sum(up{job="odradek"})')["data"]["result"]
        enough = result["data"]["result"]
        return bool(good and enough) and good[0]["value"][1] == enough[0]["value"][1] == str(count)

    interop.wait_for(f"{count} nodes scraped {SCRAPES} times", 90, up, pause=0.5)


def with_prometheus(ports):
    with tempfile.TemporaryDirectory(prefix="odradek-prometheus-") as folder:
        process, url = start_prometheus(pathlib.Path(folder), ports)
        try:
            wait_scraped(url, len(ports))
            return run_queries(url)
        finally:
            process.terminate()
            process.wait(20)


def main(arguments):
    if arguments[0].startswith("http"):
        return run_queries(arguments[0].rstrip("/"))
    return with_prometheus(arguments[0].split(","))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
