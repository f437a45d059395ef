"""`replay`: a recording through the model, and how well that predicts what was recorded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from unpinned.compiled import INTERPRETED
from unpinned.paging import layout as P
from unpinned.paging.causes import Cause
from unpinned.recording import layout as R
from unpinned.recording.file import Recording, RecordingError
from unpinned.study import replaying
from unpinned.study.policies import STUDY_POLICIES, StudyPolicy

ENTRY: Final = ("unpinned.study.replaying", "replay", "wwww")
BUCKETS: Final = 200
WITHIN: Final = 0.05
"""How near a prediction must come."""

#: settings of the live block that the model takes over, by name in the header of the recording
SETTINGS: Final = {
    "horizon_ns": P.HORIZON_NS, "provisional_ns": P.PROVISIONAL_NS, "provisional_trust_ns": P.PROVISIONAL_TRUST_NS,
    "tlb": P.TLB, "huge": P.HUGE, "fault_max_bytes": P.FAULT_MAX_BYTES, "chunk_bytes": P.CHUNK_BYTES,
    "read_ahead_bytes": P.READ_AHEAD_BYTES, "retries_max": P.RETRIES_MAX,
}  # fmt: skip
GEOMETRY: Final = ("levels", "bits", "leaves", "regions", "revoked", "dma", "faults")


@dataclass
class Prediction:
    """One figure, as recorded and as predicted."""

    name: str
    recorded: int
    predicted: int

    @property
    def difference(self) -> float:
        """Predicted against recorded, as a share of the recorded; None never: 0 against 0 is 0."""
        if self.recorded == 0:
            return 0.0 if self.predicted == 0 else float("inf")
        return (self.predicted - self.recorded) / self.recorded


@dataclass
class Replay:
    """What came out."""

    policy: str
    records: int
    lost: int
    seconds: float
    accesses: int
    bytes: int
    unserved: int
    refused: int
    figures: list[Prediction]
    worst: list[dict[str, Any]] = field(default_factory=list)

    @property
    def within(self) -> bool:
        """Every compared figure is within `WITHIN`."""
        return all(abs(figure.difference) <= WITHIN for figure in self.figures)

    def as_dict(self) -> dict[str, Any]:
        made = asdict(self)
        for figure, plain in zip(self.figures, made["figures"]):
            plain["difference"] = figure.difference if np.isfinite(figure.difference) else None
        return made | {"within": self.within}


def live_policy() -> StudyPolicy:
    """What was running when it was recorded."""
    return STUDY_POLICIES["zap-now"]


def block(recording: Recording, policy: StudyPolicy) -> P.Block:
    """A paging block like the recorded device's. RecordingError names a setting that is missing or impossible."""
    geometry = recording.header.get("geometry", {})
    settings = recording.header.get("settings", {})
    missing = [f"geometry.{n}" for n in GEOMETRY if n not in geometry] + [f"settings.{n}" for n in SETTINGS if n not in settings]
    if missing:
        raise RecordingError(f"the header lacks {missing[0]}")
    try:
        p = P.create(**{name: int(geometry[name]) for name in GEOMETRY})
        for name, word in SETTINGS.items():
            p[word] = int(settings[name])
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordingError(f"the header's settings: {error}") from None
    policy.table.write(p)
    return p


def replay(recording: Recording, policy: StudyPolicy | None = None) -> Replay:
    """Run the recording through the model under a policy (None: the one it was recorded under).

    With another policy than the recorded one, the device is given a translation cache of its own, so that flushes mean
    something: the figures are then what would have happened on such a device, and compare policies with each other.
    """
    if not INTERPRETED:
        from unpinned.compiled.build import ensure

        ensure([ENTRY])
    chosen = policy or live_policy()
    p = block(recording, chosen)
    if policy is not None:
        p[P.TLB] = 1
    m = P.create(levels=4, bits=9, leaves=int(p[P.NODE_COUNT]), regions=0, revoked=0, dma=0, faults=0)
    o = np.zeros(replaying.O_FIRST + BUCKETS, np.int64)
    records = recording.records
    times = records[:, R.TIME] if len(records) else np.zeros(1, np.int64)
    span = int(times.max() - times.min())
    o[replaying.O_ZERO] = times.min()
    o[replaying.O_STEP], o[replaying.O_BUCKETS] = span // BUCKETS + 1, BUCKETS
    replaying.replay(p, m, o, np.ascontiguousarray(records).ravel())
    figures = _figures(recording, P.view(p, "totals")[0])
    return Replay(
        chosen.name, len(records), int(recording.end.get("lost", 0)), round(recording.seconds, 3), int(o[0]), int(o[1]), int(o[2]),
        int(o[3]), figures, _worst(recording, o),
    )  # fmt: skip


def _figures(recording: Recording, totals: Any) -> list[Prediction]:
    end = recording.end.get("totals", {})
    if "faults_read" not in end:
        raise RecordingError("its end lacks the device's counters (totals.faults_read)")
    causes = end.get("invalidations", [0] * P.CAUSES)
    made = [
        Prediction("faults", end["faults_read"] + end["faults_write"], int(totals["faults_read"] + totals["faults_write"])),
        Prediction("faults for read", end["faults_read"], int(totals["faults_read"])),
        Prediction("faults for write", end["faults_write"], int(totals["faults_write"])),
        Prediction("invalidations", sum(causes), int(totals["invalidations"].sum())),
    ]
    made += [
        Prediction(f"  {Cause(i).name}", count, int(totals["invalidations"][i]))
        for i, count in enumerate(causes) if count or totals["invalidations"][i]
    ]  # fmt: skip
    made += [
        Prediction("flushes", end["flushes"], int(totals["flushes"])),
        Prediction("pages zapped", end["pages_zapped"], int(totals["pages_zapped"])),
    ]
    return made


def _worst(recording: Recording, o: R.Words, count: int = 3) -> list[dict[str, Any]]:
    """The stretches of time in which the predicted number of faults is furthest from the recorded one."""
    faults = recording.of(R.FAULT)
    faults = faults[(faults[:, R.E] & R.FAULT_PREFETCH) == 0]
    step = int(o[replaying.O_STEP])
    age = (faults[:, R.E] >> R.FAULT_AGE_SHIFT) * 1000
    bucket = np.clip((faults[:, R.TIME] - age - int(o[replaying.O_ZERO])) // step, 0, BUCKETS - 1)
    recorded = np.bincount(bucket, minlength=BUCKETS)
    predicted = o[replaying.O_FIRST : replaying.O_FIRST + BUCKETS]
    off = predicted - recorded
    return [
        {"from_s": round(i * step / 1e9, 3), "to_s": round((i + 1) * step / 1e9, 3),
         "recorded": int(recorded[i]), "predicted": int(predicted[i])}
        for i in np.argsort(-np.abs(off), kind="stable")[:count].tolist() if off[i]
    ]  # fmt: skip
