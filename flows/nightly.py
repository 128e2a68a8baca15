"""The flow `nightly`: segment what is new, tidy up, and fine-tune when there are enough new labels."""

from typing import Any

from prefect import State, flow
from prefect.states import Completed, Failed

from flows.finetune import finetune
from flows.maintain import maintain
from flows.night import NightConfig
from flows.outcome import SKIPPED
from flows.segment import segment


@flow(name="nightly", flow_run_name="{night.table}", validate_parameters=True, persist_result=False)
def nightly(night: NightConfig) -> State[Any]:
    """Segment what is new in the bucket, tidy the table up, and train when there are enough new labels."""
    ends = {"segment": segment(night, return_state=True)}
    if ends["segment"].name == SKIPPED:
        return Completed(name=SKIPPED, message=ends["segment"].message)
    ends["maintain"] = maintain(night, return_state=True)
    if night.training is not None:
        ends["finetune"] = finetune(night.training, night.cluster, return_state=True)
    told = "; ".join(f"{name}: {state.message or state.name}" for name, state in ends.items())
    good = all(state.is_completed() for state in ends.values())
    return Completed(message=told) if good else Failed(message=told)
