"""The middleware, and errors as HTTP responses."""

from __future__ import annotations

import pytest
from starlette.testclient import TestClient

from fullconv.errors import InputError, MissingExtraError, ModelFileError
from fullconv.images import ImageError
from fullconv.serve.app import Service, make_app
from fullconv.serve.errors import to_api_error
from fullconv.serve.middleware import RequestMiddleware
from fullconv.serve.monitoring import Metrics
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


TOKEN = "open-sesame"


@pytest.mark.parametrize(
    ("token", "path", "headers", "error"),
    [
        (None, "/v1/models", {"Origin": "http://example.org"}, (403, "other-origin")),
        (None, "/v1/models", {"Host": "example.org"}, (421, "other-host")),
        (None, "/v1/models", {"Origin": "http://localhost"}, None),
        (TOKEN, "/v1/models", {}, (401, "no-token")),
        (TOKEN, "/metrics", {"Authorization": f"Basic {TOKEN}"}, (401, "no-token")),
        (TOKEN, "/metrics", {"Authorization": "Bearer open-sesamE"}, (401, "no-token")),
        (TOKEN, "/metrics", {"Authorization": f"Bearer {TOKEN}", "Host": "example.org"}, None),
        *((TOKEN, path, {}, None) for path in ("/", "/docs", "/healthz")),
    ],
)
def test_access_depends_on_token_host_and_origin(token, path, headers, error):
    service = Service(Settings({"m": "x"}, token=token), {}, Metrics())
    app = RequestMiddleware(make_app(service), service.settings, service.metrics, RecordingLog())
    response = TestClient(app, base_url="http://localhost").get(path, headers=headers)
    assert not [name for name in response.headers if name.startswith("access-control")]
    if error is None:
        assert response.status_code == 200
    else:
        content = response.json()
        assert (response.status_code, content["error"]["code"]) == error
        assert content["request_id"] == response.headers["x-request-id"]
        assert ("www-authenticate" in response.headers) == (error[0] == 401)


@pytest.mark.parametrize(
    ("error", "status"),
    [(InputError("x"), 422), (ImageError("not-a-picture", "x"), 415), (ImageError("truncated", "x"), 422),
     (ImageError("too-large", "x"), 413), (MissingExtraError("p", "formats", "x"), 415), (MemoryError(), 413),
     (ModelFileError("x"), 422), (ValueError("a bug"), 500)],
)  # fmt: skip
def test_an_error_of_an_image_has_its_status(error, status):
    assert to_api_error(error).status == status
