"""The service does what its OpenAPI says: schemathesis asks whatever the description allows, and much that it does not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Running, picture, png

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed: pip install -e '.[dev]'")
TOKEN = "open-sesame"


@pytest.fixture(scope="module")
def guarded(start, two_headed) -> Running:
    """Two models, one of them with heads, behind a token."""
    return start("--model", f"pair={two_headed}", "--token", TOKEN, "--max-pixels", "1000000")


def asked(service: Running, tmp_path: Path, *options: str) -> str:
    """Let the tool ask every operation in all its ways; returns what it found."""
    tool = shutil.which("st", path=str(Path(sys.executable).parent))
    assert tool is not None
    # that a string of bytes is a picture, and that include is for JSON, no schema can say
    words = [tool, "run", f"{service.address}/openapi.json", "--exclude-checks", "positive_data_acceptance",
             "--phases", "examples,coverage,fuzzing", "--continue-on-failure", "--max-examples", "40", "--seed", "1",
             "--request-timeout", "60", "--no-color", *options]  # fmt: skip
    ended = subprocess.run(words, capture_output=True, text=True, timeout=900, check=False, cwd=tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_no_answer_is_outside_the_schema(service, tmp_path):
    assert "6 selected / 6 total" in asked(service, tmp_path)
    assert "Traceback" not in service.text


@pytest.mark.slow
def test_no_answer_is_outside_the_schema_where_a_token_is_wanted(guarded, tmp_path):
    assert "6 selected / 6 total" in asked(guarded, tmp_path, "--header", f"Authorization: Bearer {TOKEN}")
    assert "Traceback" not in guarded.text
    assert TOKEN not in guarded.text


@pytest.mark.slow
def test_real_pictures_are_answered_as_the_schema_says(guarded):
    """What schemathesis makes up is hardly ever a picture; here every case has one."""
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_url(f"{guarded.address}/openapi.json")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    pictures = [png(picture(seed, size)) for seed, size in enumerate([(40, 56), (1, 1), (3, 200)])]
    seen: list[tuple[int, str]] = []
    for path, mode in cases(schema):
        strategy = schema[path]["POST"].as_strategy(
            generation_mode=mode, headers=headers, body=pictures[len(seen) % 3], media_type="image/png"
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


def test_the_description_names_what_is_here(service, strict):
    paths = service.client.get("/openapi.json").json()["paths"]
    parameters = {one["name"]: one for one in paths["/v1/predict/{name}"]["post"]["parameters"]}
    assert parameters["name"]["schema"]["enum"] == ["shapes"]
    assert set(parameters) == {"name", "tile", "scale", "answer", "include"}  # its one head has no name
    assert parameters["scale"]["schema"]["type"] == "number"
    assert "security" not in paths["/v1/models"]["get"]
    guarded = strict.client.get("/openapi.json").json()
    wanted = {path: [v.get("security") for v in verbs.values()] for path, verbs in guarded["paths"].items()}
    assert wanted["/v1/models"] == wanted["/metrics"] == [[{"token": []}]]
    assert wanted["/healthz"] == [None]
    assert guarded["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
