"""``/v1/calibrations``: what confidences mean, and which shares of false answers can be kept."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from service.access import wants
from service.calibration.calibrate import plan
from service.calibration.views import calibration_view
from service.deps import IdempotencyKey, RunnerDep, WorkspaceDep, accepted
from service.measuring_schemas import CalibrationBody
from service.work.calibrate import request_from

router = APIRouter(prefix="/calibrations", tags=["evaluations"], dependencies=[wants("train")])


@router.post("", status_code=202, response_model=None)
def create_calibration(
    body: CalibrationBody, workspace: WorkspaceDep, runner: RunnerDep, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Calibrate abstention over the questions, as a job; its outputs are the calibration's figures."""
    inputs = body.model_dump()
    plan(workspace, request_from(workspace, inputs))
    return accepted(workspace, runner, "calibrate", inputs, idempotency_key)


@router.get("")
def list_calibrations(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return every calibration with its figures, and what it was fitted for."""
    return {"calibrations": [calibration_view(found) for found in workspace.answerer.calibrations.all()]}
