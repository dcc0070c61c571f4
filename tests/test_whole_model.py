"""The whole library against one model, in the same orders each time; `python -m tools.faults model` seeks others."""

from hypothesis import HealthCheck, settings

from tools.faults.model import WholeMachine

# A step is a call on real folders, with everything looked at after it.
WholeMachine.TestCase.settings = settings(
    max_examples=8,
    stateful_step_count=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
TestWholeLibrary = WholeMachine.TestCase
