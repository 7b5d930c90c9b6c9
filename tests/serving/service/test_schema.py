"""The description of the routes holds for generated requests; `tools/fuzz_service.py` makes more."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from ccpml.serving.service import ServiceSettings, create_app
from tests.serving.embedders import ColorEmbedder

ALLOWED = ServiceSettings(writable=True, feedback=True, hosts=())
MODES = {"right": GenerationMode.POSITIVE, "wrong": GenerationMode.NEGATIVE}


@pytest.mark.parametrize("name", MODES)
def test_responses_are_as_described(index, name):
    schema = schemathesis.openapi.from_asgi("/openapi.json", create_app(index, ColorEmbedder(), ALLOWED))
    for result in schema.get_all_operations():
        operation = result.ok()
        if name == "wrong" and not (operation.body or operation.path_parameters):
            continue  # there is nothing to be wrong

        @settings(
            max_examples=3,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=MODES[name]))
        def check(case):
            # generated text is seldom a picture or a filter, which a schema cannot describe
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        check()
