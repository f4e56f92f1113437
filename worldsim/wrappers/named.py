"""A wrapper for every kind of fault, by its class's name: `StickyAction(env, severity=0.5, seed=1)`.

`Vector` before the name is the same on a vector of environments: `VectorStickyAction(envs, severity=0.5, seed=1)`. A
new kind of fault gets two classes here, and their names in `worldsim.wrappers`.
"""

from inspect import Parameter, Signature, cleandoc, signature
from typing import Any, ClassVar, Literal

import gymnasium as gym
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from worldsim import faults
from worldsim.faults import Clock, Fault
from worldsim.wrappers.inject import InjectFaults
from worldsim.wrappers.vector import VectorInjectFaults


class SingleFault(InjectFaults):
    """One fault on an environment. A subclass says which, and has that fault's documentation and parameters."""

    fault_class: ClassVar[type[Fault]]
    kind: ClassVar[str]  # of the fault, as plans name it

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "fault_class" in vars(cls):  # and no subclass of a wrapper below, which has a documentation of its own
            _describe(cls, InjectFaults, _SINGLE)

    def __init__(
        self,
        env: gym.Env[Any, Any],
        severity: float = 0.5,
        seed: int = 1,
        *,
        clock: Clock | None = None,
        blind: bool = False,
        time: Literal["virtual", "wall"] | None = None,
        step_s: float | None = None,
        hold: Any = None,
        **parameters: Any,
    ) -> None:
        fault = faults.fault_to_json(_fault(self.fault_class, severity, parameters))
        given = {"clock": clock} if clock else {}
        arguments = {key: value for key, value in fault.items() if key != "kind"}
        real_time: dict[str, Any] = {"time": time, "step_s": step_s, "hold": hold}
        RecordConstructorArgs.__init__(self, **{**arguments, "seed": seed, "blind": blind, **real_time, **given})
        super().__init__(env, [fault], seed, clock, blind=blind, **real_time)


class VectorSingleFault(VectorInjectFaults):
    """One fault on a vector of environments. A subclass says which, as for `SingleFault`."""

    fault_class: ClassVar[type[Fault]]
    kind: ClassVar[str]  # of the fault, as plans name it

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "fault_class" in vars(cls):
            _describe(cls, VectorInjectFaults, _VECTOR)

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        severity: float = 0.5,
        seed: int = 1,
        *,
        blind: bool = False,
        time: Literal["virtual", "wall"] | None = None,
        step_s: float | None = None,
        hold: Any = None,
        **parameters: Any,
    ) -> None:
        fault = _fault(self.fault_class, severity, parameters)
        super().__init__(env, [fault], seed, blind=blind, time=time, step_s=step_s, hold=hold)


def _fault(fault_class: type[Fault], severity: float, parameters: dict[str, Any]) -> Fault:
    """The fault with these parameters, given as plans write them: lists for tuples, mappings for schedules."""
    return faults.fault_from_json({**parameters, "kind": fault_class.kind, "severity": severity})


def _own_parameters(wrapper: type[Any]) -> tuple[Parameter, ...]:
    return tuple(each for each in signature(wrapper).parameters.values() if each.kind is not Parameter.VAR_KEYWORD)


_SINGLE, _VECTOR = _own_parameters(SingleFault), _own_parameters(VectorSingleFault)


def _describe(wrapper: type[Any], base: type[Any], parameters: tuple[Parameter, ...]) -> None:
    """Give a wrapper its fault's kind and documentation, and a signature that has its fault's parameters, too."""
    fault, taken = wrapper.fault_class, {each.name for each in parameters}
    wrapper.kind = fault.kind
    wrapper.__doc__ = (
        f"{cleandoc(fault.__doc__ or '')}\n\n"
        f"Keyword arguments: those of `{base.__name__}` except `faults`, and the parameters of "
        f"`worldsim.faults.{fault.__name__}`.\nSee `{base.__name__}` for what a step then means and what `info` holds."
    )
    more = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=field.default, annotation=field.annotation)
        for name, field in fault.model_fields.items()
        if name not in taken
    ]
    wrapper.__signature__ = Signature([*parameters, *more])


# --- several at once ---


class MalformedOutput(SingleFault):
    fault_class = faults.MalformedOutput


class VectorMalformedOutput(VectorSingleFault):
    fault_class = faults.MalformedOutput


class MissingData(SingleFault):
    fault_class = faults.MissingData


class VectorMissingData(VectorSingleFault):
    fault_class = faults.MissingData


class SlowAPI(SingleFault):
    fault_class = faults.SlowAPI


class VectorSlowAPI(VectorSingleFault):
    fault_class = faults.SlowAPI


# --- slow ---


class ClockSkew(SingleFault):
    fault_class = faults.ClockSkew


class VectorClockSkew(VectorSingleFault):
    fault_class = faults.ClockSkew


class ConstantLatency(SingleFault):
    fault_class = faults.ConstantLatency


class VectorConstantLatency(VectorSingleFault):
    fault_class = faults.ConstantLatency


class UniformLatency(SingleFault):
    fault_class = faults.UniformLatency


class VectorUniformLatency(VectorSingleFault):
    fault_class = faults.UniformLatency


class LognormalLatency(SingleFault):
    fault_class = faults.LognormalLatency


class VectorLognormalLatency(VectorSingleFault):
    fault_class = faults.LognormalLatency


class ParetoLatency(SingleFault):
    fault_class = faults.ParetoLatency


class VectorParetoLatency(VectorSingleFault):
    fault_class = faults.ParetoLatency


class EmpiricalLatency(SingleFault):
    fault_class = faults.EmpiricalLatency


class VectorEmpiricalLatency(VectorSingleFault):
    fault_class = faults.EmpiricalLatency


class Jitter(SingleFault):
    fault_class = faults.Jitter


class VectorJitter(VectorSingleFault):
    fault_class = faults.Jitter


class SlowStart(SingleFault):
    fault_class = faults.SlowStart


class VectorSlowStart(VectorSingleFault):
    fault_class = faults.SlowStart


class LostRequest(SingleFault):
    fault_class = faults.LostRequest


class VectorLostRequest(VectorSingleFault):
    fault_class = faults.LostRequest


class LostAnswer(SingleFault):
    fault_class = faults.LostAnswer


class VectorLostAnswer(VectorSingleFault):
    fault_class = faults.LostAnswer


class SlowDrip(SingleFault):
    fault_class = faults.SlowDrip


class VectorSlowDrip(VectorSingleFault):
    fault_class = faults.SlowDrip


# --- refusing ---


class RateLimited(SingleFault):
    fault_class = faults.RateLimited


class VectorRateLimited(VectorSingleFault):
    fault_class = faults.RateLimited


class Throttled(SingleFault):
    fault_class = faults.Throttled


class VectorThrottled(VectorSingleFault):
    fault_class = faults.Throttled


class ServerError(SingleFault):
    fault_class = faults.ServerError


class VectorServerError(VectorSingleFault):
    fault_class = faults.ServerError


class BadGateway(SingleFault):
    fault_class = faults.BadGateway


class VectorBadGateway(VectorSingleFault):
    fault_class = faults.BadGateway


class Unavailable(SingleFault):
    fault_class = faults.Unavailable


class VectorUnavailable(VectorSingleFault):
    fault_class = faults.Unavailable


class DroppedConnection(SingleFault):
    fault_class = faults.DroppedConnection


class VectorDroppedConnection(VectorSingleFault):
    fault_class = faults.DroppedConnection


class ExpiredToken(SingleFault):
    fault_class = faults.ExpiredToken


class VectorExpiredToken(VectorSingleFault):
    fault_class = faults.ExpiredToken


class LostPermission(SingleFault):
    fault_class = faults.LostPermission


class VectorLostPermission(VectorSingleFault):
    fault_class = faults.LostPermission


class QuotaExceeded(SingleFault):
    fault_class = faults.QuotaExceeded


class VectorQuotaExceeded(VectorSingleFault):
    fault_class = faults.QuotaExceeded


class Cascade(SingleFault):
    fault_class = faults.Cascade


class VectorCascade(VectorSingleFault):
    fault_class = faults.Cascade


# --- malformed, loud ---


class SchemaDrift(SingleFault):
    fault_class = faults.SchemaDrift


class VectorSchemaDrift(VectorSingleFault):
    fault_class = faults.SchemaDrift


class OversizedReply(SingleFault):
    fault_class = faults.OversizedReply


class VectorOversizedReply(VectorSingleFault):
    fault_class = faults.OversizedReply


class TruncatedJSON(SingleFault):
    fault_class = faults.TruncatedJSON


class VectorTruncatedJSON(VectorSingleFault):
    fault_class = faults.TruncatedJSON


class InvalidJSON(SingleFault):
    fault_class = faults.InvalidJSON


class VectorInvalidJSON(VectorSingleFault):
    fault_class = faults.InvalidJSON


class HTMLErrorPage(SingleFault):
    fault_class = faults.HTMLErrorPage


class VectorHTMLErrorPage(VectorSingleFault):
    fault_class = faults.HTMLErrorPage


class WrongEncoding(SingleFault):
    fault_class = faults.WrongEncoding


class VectorWrongEncoding(VectorSingleFault):
    fault_class = faults.WrongEncoding


class WrongType(SingleFault):
    fault_class = faults.WrongType


class VectorWrongType(VectorSingleFault):
    fault_class = faults.WrongType


class WrongShape(SingleFault):
    fault_class = faults.WrongShape


class VectorWrongShape(VectorSingleFault):
    fault_class = faults.WrongShape


class NonFinite(SingleFault):
    fault_class = faults.NonFinite


class VectorNonFinite(VectorSingleFault):
    fault_class = faults.NonFinite


class OutOfRange(SingleFault):
    fault_class = faults.OutOfRange


class VectorOutOfRange(VectorSingleFault):
    fault_class = faults.OutOfRange


class UnknownValue(SingleFault):
    fault_class = faults.UnknownValue


class VectorUnknownValue(VectorSingleFault):
    fault_class = faults.UnknownValue


class NullForRequired(SingleFault):
    fault_class = faults.NullForRequired


class VectorNullForRequired(VectorSingleFault):
    fault_class = faults.NullForRequired


# --- malformed, silent ---


class TransposedDigits(SingleFault):
    fault_class = faults.TransposedDigits


class VectorTransposedDigits(VectorSingleFault):
    fault_class = faults.TransposedDigits


class SwappedFields(SingleFault):
    fault_class = faults.SwappedFields


class VectorSwappedFields(VectorSingleFault):
    fault_class = faults.SwappedFields


class WrongUnit(SingleFault):
    fault_class = faults.WrongUnit


class VectorWrongUnit(VectorSingleFault):
    fault_class = faults.WrongUnit


class WrongTimeZone(SingleFault):
    fault_class = faults.WrongTimeZone


class VectorWrongTimeZone(VectorSingleFault):
    fault_class = faults.WrongTimeZone


class OtherRecord(SingleFault):
    fault_class = faults.OtherRecord


class VectorOtherRecord(VectorSingleFault):
    fault_class = faults.OtherRecord


class FalseSuccess(SingleFault):
    fault_class = faults.FalseSuccess


class VectorFalseSuccess(VectorSingleFault):
    fault_class = faults.FalseSuccess


class FalseFailure(SingleFault):
    fault_class = faults.FalseFailure


class VectorFalseFailure(VectorSingleFault):
    fault_class = faults.FalseFailure


class DuplicatedRows(SingleFault):
    fault_class = faults.DuplicatedRows


class VectorDuplicatedRows(VectorSingleFault):
    fault_class = faults.DuplicatedRows


class ReorderedRows(SingleFault):
    fault_class = faults.ReorderedRows


class VectorReorderedRows(VectorSingleFault):
    fault_class = faults.ReorderedRows


class OffByOnePage(SingleFault):
    fault_class = faults.OffByOnePage


class VectorOffByOnePage(VectorSingleFault):
    fault_class = faults.OffByOnePage


# --- missing ---


class NullFields(SingleFault):
    fault_class = faults.NullFields


class VectorNullFields(VectorSingleFault):
    fault_class = faults.NullFields


class DroppedFields(SingleFault):
    fault_class = faults.DroppedFields


class VectorDroppedFields(VectorSingleFault):
    fault_class = faults.DroppedFields


class EmptyResult(SingleFault):
    fault_class = faults.EmptyResult


class VectorEmptyResult(VectorSingleFault):
    fault_class = faults.EmptyResult


class MissingRows(SingleFault):
    fault_class = faults.MissingRows


class VectorMissingRows(VectorSingleFault):
    fault_class = faults.MissingRows


class PartialPage(SingleFault):
    fault_class = faults.PartialPage


class VectorPartialPage(VectorSingleFault):
    fault_class = faults.PartialPage


class BlackFrames(SingleFault):
    fault_class = faults.BlackFrames


class VectorBlackFrames(VectorSingleFault):
    fault_class = faults.BlackFrames


class Occlusion(SingleFault):
    fault_class = faults.Occlusion


class VectorOcclusion(VectorSingleFault):
    fault_class = faults.Occlusion


class DroppedChannels(SingleFault):
    fault_class = faults.DroppedChannels


class VectorDroppedChannels(VectorSingleFault):
    fault_class = faults.DroppedChannels


class DeadSensors(SingleFault):
    fault_class = faults.DeadSensors


class VectorDeadSensors(VectorSingleFault):
    fault_class = faults.DeadSensors


class FrozenFrames(SingleFault):
    fault_class = faults.FrozenFrames


class VectorFrozenFrames(VectorSingleFault):
    fault_class = faults.FrozenFrames


# --- stale and repeated ---


class PreviousAnswer(SingleFault):
    fault_class = faults.PreviousAnswer


class VectorPreviousAnswer(VectorSingleFault):
    fault_class = faults.PreviousAnswer


class StaleCache(SingleFault):
    fault_class = faults.StaleCache


class VectorStaleCache(VectorSingleFault):
    fault_class = faults.StaleCache


class DelayedObservation(SingleFault):
    fault_class = faults.DelayedObservation


class VectorDelayedObservation(VectorSingleFault):
    fault_class = faults.DelayedObservation


class EventualConsistency(SingleFault):
    fault_class = faults.EventualConsistency


class VectorEventualConsistency(VectorSingleFault):
    fault_class = faults.EventualConsistency


class DuplicateExecution(SingleFault):
    fault_class = faults.DuplicateExecution


class VectorDuplicateExecution(VectorSingleFault):
    fault_class = faults.DuplicateExecution


class ReorderedDelivery(SingleFault):
    fault_class = faults.ReorderedDelivery


class VectorReorderedDelivery(VectorSingleFault):
    fault_class = faults.ReorderedDelivery


class DelayedAction(SingleFault):
    fault_class = faults.DelayedAction


class VectorDelayedAction(VectorSingleFault):
    fault_class = faults.DelayedAction


class StickyAction(SingleFault):
    fault_class = faults.StickyAction


class VectorStickyAction(VectorSingleFault):
    fault_class = faults.StickyAction


# --- pixels and sensors ---


class GaussianNoise(SingleFault):
    fault_class = faults.GaussianNoise


class VectorGaussianNoise(VectorSingleFault):
    fault_class = faults.GaussianNoise


class ShotNoise(SingleFault):
    fault_class = faults.ShotNoise


class VectorShotNoise(VectorSingleFault):
    fault_class = faults.ShotNoise


class SaltNoise(SingleFault):
    fault_class = faults.SaltNoise


class VectorSaltNoise(VectorSingleFault):
    fault_class = faults.SaltNoise


class DeadPixels(SingleFault):
    fault_class = faults.DeadPixels


class VectorDeadPixels(VectorSingleFault):
    fault_class = faults.DeadPixels


class Blur(SingleFault):
    fault_class = faults.Blur


class VectorBlur(VectorSingleFault):
    fault_class = faults.Blur


class Compression(SingleFault):
    fault_class = faults.Compression


class VectorCompression(VectorSingleFault):
    fault_class = faults.Compression


class Brightness(SingleFault):
    fault_class = faults.Brightness


class VectorBrightness(VectorSingleFault):
    fault_class = faults.Brightness


class Contrast(SingleFault):
    fault_class = faults.Contrast


class VectorContrast(VectorSingleFault):
    fault_class = faults.Contrast


class ColourShift(SingleFault):
    fault_class = faults.ColourShift


class VectorColourShift(VectorSingleFault):
    fault_class = faults.ColourShift


class CameraShift(SingleFault):
    fault_class = faults.CameraShift


class VectorCameraShift(VectorSingleFault):
    fault_class = faults.CameraShift


class CameraRotation(SingleFault):
    fault_class = faults.CameraRotation


class VectorCameraRotation(VectorSingleFault):
    fault_class = faults.CameraRotation


class Tearing(SingleFault):
    fault_class = faults.Tearing


class VectorTearing(VectorSingleFault):
    fault_class = faults.Tearing


# --- hostile content ---


class HiddenInstruction(SingleFault):
    fault_class = faults.HiddenInstruction


class VectorHiddenInstruction(VectorSingleFault):
    fault_class = faults.HiddenInstruction


class PaintedInstruction(SingleFault):
    fault_class = faults.PaintedInstruction


class VectorPaintedInstruction(VectorSingleFault):
    fault_class = faults.PaintedInstruction


# --- plausible lies ---


class PlausibleLie(SingleFault):
    fault_class = faults.PlausibleLie


class VectorPlausibleLie(VectorSingleFault):
    fault_class = faults.PlausibleLie
