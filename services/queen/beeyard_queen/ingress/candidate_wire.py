"""From workers that were looked at to the messages of those who want to know why one was chosen."""

from beeyard.queen.v1 import inference_service_pb2 as pb

from beeyard_queen.policy.considered import Considered


def candidate_message(seen: Considered) -> pb.Candidate:
    """Return one worker as clients see it."""
    wire = pb.Candidate(
        worker_id=seen.worker_id,
        pool_id=seen.pool_id,
        chosen=seen.is_chosen,
        excluded_by=seen.excluded_by,
        detail=seen.detail,
        cached_prompt_tokens=seen.cached_tokens,
    )
    score = seen.score
    if score is not None:
        wire.predicted_end_ms = score.end_ms
        wire.slot_wait_ms, wire.first_token_ms = score.admission_ms, score.first_token_ms
        wire.answer_ms, wire.answer_tokens = score.decode_ms, score.answer_tokens
        wire.answer_measured = score.is_measured
    return wire
