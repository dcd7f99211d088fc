"""The status of a run with every field that there is."""

STATUS = {
    "observedGeneration": 2,
    "phase": "GRPORunning",
    "message": "grpo attempt 1 is running",
    "backend": "PyTorchJob",
    "progress": {"stage": "grpo", "done": 3, "total": 9, "text": "3/9", "reward": 1},
    "startedAt": "2026-01-01T00:00:00Z",
    "stages": [
        {
            "name": "sft",
            "state": "Succeeded",
            "attempt": 2,
            "failures": 1,
            "startedAt": "2026-01-01T00:00:00.123456Z",
            "finishedAt": "2026-01-01T01:00:00Z",
            "checkpoint": {"location": "r/sft/2", "digest": f"sha256:{'0' * 64}", "step": 7},
            "metrics": {"loss": 0.5, "epoch": 3, "total_flos": 3.2e21, "worst": -1.0},
            "child": "r-sft-2",
            "gpuSeconds": 7200,
            "wastedGpuSeconds": 0.0,
            "gates": [{"name": "maxLoss", "observed": 0.5, "threshold": 1, "passed": True}],
        },
        {
            "name": "grpo",
            "state": "Running",
            "attempt": 1,
            "error": {"code": "OutOfMemory", "message": "the earlier attempt"},
            "retryAt": "2026-01-01T01:00:10Z",
        },
        {"name": "evaluation", "state": "Waiting", "attempt": 0},
    ],
    "conditions": [
        {
            "type": kind,
            "status": "Unknown",
            "reason": "InProgress",
            "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
            "observedGeneration": 2,
        }
        for kind in ("Accepted", "Succeeded")
    ],
}
