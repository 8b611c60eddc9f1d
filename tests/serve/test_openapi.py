"""The service agrees with its OpenAPI: schemathesis sends what the description allows, and what it forbids."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import RunningService, draw_image, png

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install -e '.[dev]'")
TOKEN = "open-sesame"


@pytest.fixture(scope="module")
def guarded(start, two_headed) -> RunningService:
    """Two models, one of them with heads, behind a token."""
    return start("--model", f"pair={two_headed}", "--token", TOKEN, "--max-pixels", "1000000")


def run_schemathesis(service: RunningService, tmp_path: Path, *options: str) -> str:
    """Send requests to every operation; returns the output."""
    tool = shutil.which("st", path=str(Path(sys.executable).parent))
    assert tool is not None
    # No schema can state that bytes are an image, and that include is for JSON.
    command = [tool, "run", f"{service.address}/openapi.json", "--exclude-checks", "positive_data_acceptance",
             "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--max-examples", "40", "--seed", "1",
             "--request-timeout", "60", "--no-color", *options]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize("fixture", ["service", "guarded"])
def test_all_responses_match_the_schema(fixture, request, tmp_path):
    service = request.getfixturevalue(fixture)
    assert "6 selected / 6 total" in run_schemathesis(service, tmp_path, "--header", f"Authorization: Bearer {TOKEN}")
    assert "Traceback" not in service.text
    assert TOKEN not in service.text


@pytest.mark.slow
def test_responses_to_real_images_match_the_schema(guarded):
    """Schemathesis hardly ever generates an image; here every request has one."""
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_url(f"{guarded.address}/openapi.json")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    images = [png(draw_image(seed, size)) for seed, size in enumerate([(40, 56), (1, 1), (3, 200)])]
    seen: list[tuple[int, str]] = []
    for path, mode in cases(schema):
        strategy = schema[path]["POST"].as_strategy(
            generation_mode=mode, headers=headers, body=images[len(seen) % 3], media_type="image/png"
        )

        @settings(
            max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True
        )
        @given(case=strategy)
        def check(case):
            answer = case.call(timeout=60)
            seen.append((answer.status_code, answer.headers["content-type"][0]))
            case.validate_response(answer, excluded_checks=[schemathesis.checks.positive_data_acceptance])

        check()
    assert {(200, "image/png"), (200, "application/json"), (200, "application/x-npz")} <= set(seen)
    assert {200, 404, 422} <= {status for status, _ in seen}
    assert len(seen) > 100


def cases(schema) -> Iterator[tuple[str, object]]:
    for path in ("/v1/predict", "/v1/predict/{name}"):
        for mode in schemathesis.GenerationMode:
            yield path, mode


def test_the_description_has_the_models_heads_and_security_of_the_service(service, strict):
    paths = service.client.get("/openapi.json").json()["paths"]
    parameters = {one["name"]: one for one in paths["/v1/predict/{name}"]["post"]["parameters"]}
    assert parameters["name"]["schema"]["enum"] == ["shapes"]
    assert set(parameters) == {"name", "tile", "scale", "answer", "include"}  # its only head has no name
    assert parameters["scale"]["schema"]["type"] == "number"
    assert "security" not in paths["/v1/models"]["get"]
    guarded = strict.client.get("/openapi.json").json()
    security = {path: [v.get("security") for v in verbs.values()] for path, verbs in guarded["paths"].items()}
    assert security["/v1/models"] == security["/metrics"] == [[{"token": []}]]
    assert security["/healthz"] == [None]
    assert guarded["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
