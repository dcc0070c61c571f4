"""The whole library against one model, in any order; `python -m tools.faults --long model` tries far more."""

from hypothesis import HealthCheck, settings

from tools.faults.model import WholeMachine

# A step is a call on real folders, with everything looked at after it.
WholeMachine.TestCase.settings = settings(
    max_examples=8, stateful_step_count=25, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestWholeLibrary = WholeMachine.TestCase
