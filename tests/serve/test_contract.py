"""Whatever OpenAPI allows and forbids, answered as OpenAPI says."""

import threading
import time

import hypothesis
import pytest

from normface.serve import Settings, server


@pytest.fixture(scope="module")
def contract(model, tmp_path_factory):
    """The schema of a service that listens."""
    import schemathesis  # slow to load, so only where it is used

    gallery = tmp_path_factory.mktemp("contract") / "people.db"
    running, listener, url = server.prepare(Settings(model=model, port=0, gallery=f"file:{gallery}", rate=10_000))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    while not running.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield schemathesis.openapi.from_url(f"{url}/v1/openapi.json")
    running.should_exit = True
    thread.join(600)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_request(contract, mode):
    from schemathesis import GenerationMode, checks

    mode, tried = GenerationMode(mode), set()
    checked = [
        checks.not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
        checks.response_schema_conformance,
    ]  # fmt: skip
    for operation in (found.ok() for found in contract.get_all_operations()):

        @hypothesis.settings(
            max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(hypothesis.HealthCheck)
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def answers(case):
            tried.add((case.method, case.path))
            case.call_and_validate(checks=checked, timeout=600)

        try:
            answers()
        except hypothesis.errors.Unsatisfiable:  # any name is a string, and nothing is wrong about no parameters
            assert mode == GenerationMode.NEGATIVE
            assert operation.method in ("get", "delete")
    assert {("POST", path) for path in ("/v1/embed", "/v1/people", "/v1/search", "/v1/verify")} <= tried
