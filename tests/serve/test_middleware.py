"""The middleware: an internal error has its JSON response, one log line, and its count."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from fullconv.serve.app import Service, make_app
from fullconv.serve.metrics import Metrics
from fullconv.serve.middleware import RequestMiddleware
from fullconv.serve.settings import Settings


class RecordingLog:
    def __init__(self):
        self.events = []

    def write(self, event, level="info", **fields):
        self.events.append((event, level, fields))


def test_a_bug_in_a_route_is_a_json_error_with_one_traceback_in_the_log(monkeypatch):
    service, log = Service(Settings({"m": "x"}), {}, Metrics()), RecordingLog()
    monkeypatch.setattr(service, "describe", lambda: 1 / 0)
    app = RequestMiddleware(make_app(service), service.settings, service.metrics, log)
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    response = client.get("/v1/models", headers={"X-Request-ID": "one"})
    assert (response.status_code, response.headers["x-request-id"]) == (500, "one")
    assert response.json()["error"]["code"] == "bug"
    assert [event for event, _, _ in log.events] == ["bug", "request"]
    assert "ZeroDivisionError" in log.events[0][2]["traceback"]
    assert (log.events[1][2]["status"], log.events[1][2]["code"]) == (500, "bug")
    assert app.in_flight == 0


@pytest.mark.parametrize(
    ("headers", "path", "code"),
    [
        ({}, "/v1/models", "no-token"),
        ({"Authorization": "Basic open-sesame"}, "/metrics", "no-token"),
        ({"Authorization": "Bearer open-sesame"}, "/v1/models", None),
        ({"Origin": "http://example.org"}, "/", "other-origin"),
        ({}, "/", None),
    ],
)
def test_access_depends_on_token_and_origin(headers, path, code):
    service = Service(Settings({"m": "x"}, token="open-sesame"), {}, Metrics())
    app = RequestMiddleware(make_app(service), service.settings, service.metrics, RecordingLog())
    response = TestClient(app, base_url="http://localhost").get(path, headers=headers)
    assert response.status_code == 200 if code is None else response.json()["error"]["code"] == code
