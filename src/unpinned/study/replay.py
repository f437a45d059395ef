"""`replay`: a recording through the model, and how well that predicts what was recorded."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from unpinned.compiled import INTERPRETED
from unpinned.host.layout import COPY_WORDS
from unpinned.host.trust import HORIZON_MAX_NS
from unpinned.paging import layout as P
from unpinned.paging.causes import Cause
from unpinned.recording import layout as R
from unpinned.recording.file import Recording, RecordingError
from unpinned.study import replay_faults, replaying
from unpinned.study.policies import STUDY_POLICIES, StudyPolicy

ENTRY: Final = ("unpinned.study.replaying", "replay", "wwwww")
BUCKETS: Final = 200
WITHIN: Final = 0.05
"""How near a prediction must come."""

#: settings of the live block that the model takes over, by name in the header of the recording
SETTINGS: Final = {
    "provisional_ns": P.PROVISIONAL_NS, "provisional_trust_ns": P.PROVISIONAL_TRUST_NS,
    "tlb": P.TLB, "huge": P.HUGE, "fault_max_bytes": P.FAULT_MAX_BYTES, "chunk_bytes": P.CHUNK_BYTES,
    "read_ahead_bytes": P.READ_AHEAD_BYTES, "retries_max": P.RETRIES_MAX,
}  # fmt: skip
TABLE_WORDS_MAX: Final = 1 << 27
FAULT_BYTES_MAX: Final = 1 << 30
GEOMETRY: Final = ("levels", "bits", "leaves", "regions", "revoked", "dma", "faults")


COUNTED: Final = ("faults_read", "faults_write", "faults_minor", "faults_major", "faults_failed", "retries", "prefetches", "pages_in",
                  "flushes", "pages_zapped")  # fmt: skip
PREDICTED, DETAIL, GIVEN = "predicted", "detail", "given"
"""What a figure is: predicted and held to `WITHIN`; predicted, a part of one that is; given to the model by the recording."""


@dataclass
class Prediction:
    """One figure, as recorded and as predicted."""

    name: str
    recorded: int
    predicted: int
    role: str = PREDICTED

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
    stopped: str = ""
    """Why the recording ends early, if it does."""
    blind_faults: int | None = None
    """Faults predicted from the copies alone, without being told which requests had to wait."""
    requests: dict[str, int] = field(default_factory=dict)
    """Request by request: faults of both, faults that only one of the two has."""
    worst: list[dict[str, Any]] = field(default_factory=list)
    off: list[dict[str, Any]] = field(default_factory=list)
    """Invalidations of which only one of the two flushed."""

    @property
    def within(self) -> bool:
        """Every predicted figure is within `WITHIN`."""
        return all(abs(figure.difference) <= WITHIN for figure in self.figures if figure.role != DETAIL)

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
        words = int(geometry["leaves"]) << int(geometry["bits"])
        if words > TABLE_WORDS_MAX:
            raise ValueError(f"a page table of {8 * words:,} bytes, expected at most {8 * TABLE_WORDS_MAX:,}")
        p = P.create(**{name: int(geometry[name]) for name in GEOMETRY})
        for name, word in SETTINGS.items():
            p[word] = int(settings[name])
        if not 0 < p[P.FAULT_MAX_BYTES] <= FAULT_BYTES_MAX or p[P.CHUNK_BYTES] < 1 << p[P.PAGE_SHIFT]:
            raise ValueError(f"faults of {p[P.FAULT_MAX_BYTES]} bytes in chunks of {p[P.CHUNK_BYTES]}")
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordingError(f"the header's settings: {error}") from None
    policy.table.write(p)
    return p


def replay(recording: Recording, policy: StudyPolicy | None = None) -> Replay:
    """Run the recording through the model under a policy (None: the one it was recorded under).

    With another policy than the recorded one, the device is given a translation cache of its own, so that flushes mean
    something: the figures are then what would have happened on such a device, and compare policies with each other.

    Raises:
        RecordingError: a header, a record or an end that cannot be: says which.
    """
    chosen = policy or live_policy()
    played = _play(recording, chosen, policy is not None, blind=False)
    blind = None
    if policy is None:
        blind = _faults(P.view(_play(recording, chosen, False, blind=True).p, "totals")[0])
    records, o = played.records, played.o
    return Replay(
        policy=chosen.name, records=len(records), lost=int(recording.end.get("lost", 0)), seconds=round(recording.seconds, 3),
        accesses=int(o[replay_faults.O_ACCESSES]), bytes=int(o[replay_faults.O_BYTES]), unserved=int(o[replay_faults.O_UNSERVED]),
        refused=int(o[replay_faults.O_REFUSED]), stopped=str(recording.end.get("stopped", "")),
        figures=_figures(recording, played), blind_faults=blind,
        requests=_requests(records), worst=_worst(records), off=_off(records),
    )  # fmt: skip


@dataclass
class _Played:
    """The blocks after a replay, and the records with what became of each."""

    p: P.Block
    o: R.Words
    records: R.Words


def _play(recording: Recording, policy: StudyPolicy, cached: bool, blind: bool) -> _Played:
    if not INTERPRETED:
        from unpinned.compiled.build import ensure

        ensure([ENTRY])
    p = block(recording, policy)
    check(recording, p)
    if cached:
        p[P.TLB] = 1
    m = P.create(levels=4, bits=9, leaves=int(p[P.NODE_COUNT]), regions=0, revoked=0, dma=0, faults=0)
    slots, regions = int(p[P.FAULT_CAPACITY]), int(p[P.REGION_CAPACITY])
    o = np.zeros(replay_faults.O_FIRST + slots * replay_faults.SLOT_WORDS + regions, np.int64)
    o[replay_faults.O_BLIND], o[replay_faults.O_SLOTS], o[replay_faults.O_REGIONS] = blind, slots, o.size - regions
    records = np.array(recording.records, np.int64, order="C")
    records[:, replaying.OUTCOME] = 0
    replaying.replay(p, m, o, np.zeros(COPY_WORDS, np.int64), records.ravel())
    return _Played(p, o, records)


def check(recording: Recording, p: P.Block) -> None:
    """Refuse records that no device of this geometry can have made. RecordingError says which and why."""
    r = recording.records
    kind, a, b, d = r[:, R.KIND], r[:, R.A], r[:, R.B], r[:, R.D]
    span = 1 << int(p[P.LEVELS] * p[P.BITS] + p[P.PAGE_SHIFT])
    most = np.select([np.isin(kind, (R.FAULT, R.LOOKED, R.TAKEN, R.CHUNK)), kind == R.ACCESS],
                     [int(p[P.FAULT_MAX_BYTES]), 1 << 31], span)  # fmt: skip
    length = np.where(kind == R.ACCESS, b, b - a)
    ranged = kind != R.HORIZON
    regional = np.isin(kind, (R.REVOKE, R.OPEN, R.CLOSE))
    for wrong, why in (
        (ranged & ((a < 0) | (a >= span) | (length < 0) | (length > most) | (a + length > span)), "a range that cannot be"),
        ((kind == R.ACCESS) & ((r[:, R.C] < 0) | (r[:, R.C] > 1 << 31)), "what is left of a message"),
        (regional & ((d < 0) | (d >= p[P.REGION_CAPACITY])), "a region that the device does not have"),
        ((kind == R.FAULT) & ((d < -1) | (d >= p[P.REGION_CAPACITY])), "a region that the device does not have"),
        (~ranged & ((a <= 0) | (a > HORIZON_MAX_NS)), "a horizon that cannot be"),
        ((kind == R.INVALIDATE) & ((r[:, R.C] < 0) | (r[:, R.C] >= P.CAUSES)), f"a cause that is not one of {P.CAUSES}"),
    ):
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise RecordingError(f"record {first} ({R.KINDS[kind[first]]}): {why}: {r[first, R.A :].tolist()}")


def _faults(totals: Any) -> int:
    return int(totals["faults_read"] + totals["faults_write"])


def _figures(recording: Recording, played: _Played) -> list[Prediction]:
    end = recording.end.get("totals", {})
    totals = P.view(played.p, "totals")[0]
    missing = [name for name in (*COUNTED, "invalidations") if name not in end]
    if missing or len(end["invalidations"]) != P.CAUSES:
        raise RecordingError(f"its end lacks the device's counters (totals.{(missing or ['invalidations'])[0]})")

    def counted(name: str, what: str, role: str = PREDICTED) -> Prediction:
        return Prediction(name, int(end[what]), int(totals[what]), role)

    found = played.records[played.records[:, R.KIND] == R.INVALIDATE]
    causes = [Cause(i) for i in range(P.CAUSES) if end["invalidations"][i] or totals["invalidations"][i]]
    flushed = {cause: found[found[:, R.C] == cause] & 1 for cause in causes}
    return [
        Prediction("faults", _faults_of(end), _faults(totals), PREDICTED),
        counted("faults for read", "faults_read"),
        counted("faults for write", "faults_write"),
        counted("found by a look", "faults_minor", DETAIL),
        counted("brought in", "faults_major", DETAIL),
        counted("tried again", "retries", DETAIL),
        counted("failed", "faults_failed", DETAIL),
        counted("prefetches", "prefetches", GIVEN),
        counted("pages installed", "pages_in"),
        Prediction("invalidations", sum(end["invalidations"]), int(totals["invalidations"].sum()), GIVEN),
        *(Prediction(f"invalidations {cause.name}", end["invalidations"][cause], int(totals["invalidations"][cause]), GIVEN)
          for cause in causes),
        counted("flushes", "flushes"),
        *(Prediction(f"flushes {cause.name}", int(flushed[cause][:, R.E].sum()), int(flushed[cause][:, replaying.OUTCOME].sum()), DETAIL)
          for cause in causes),
        counted("pages zapped", "pages_zapped"),
    ]  # fmt: skip


def _faults_of(end: dict[str, Any]) -> int:
    return int(end["faults_read"]) + int(end["faults_write"])


def _requests(records: R.Words) -> dict[str, int]:
    """Requests one by one: how many faults of the recording are faults of the model, how many only of one of the two."""
    asked = (records[:, R.KIND] == R.FAULT) & (records[:, R.E] & R.FAULT_PREFETCH == 0)
    also = int((records[asked, replaying.OUTCOME] > 0).sum())
    copied = records[records[:, R.KIND] == R.ACCESS, replaying.OUTCOME]
    return {"both": also, "recorded only": int(asked.sum()) - also, "predicted only": int(copied.sum())}


def _worst(records: R.Words, count: int = 3) -> list[dict[str, Any]]:
    """The stretches of time in which the predicted number of faults is furthest from the recorded one."""
    asked = (records[:, R.KIND] == R.FAULT) & (records[:, R.E] & R.FAULT_PREFETCH == 0)
    requests = asked | (records[:, R.KIND] == R.ACCESS)
    if not requests.any():
        return []
    zero, last = int(records[:, R.TIME].min()), int(records[:, R.TIME].max())
    step = (last - zero) // BUCKETS + 1
    bucket = (records[:, R.TIME] - zero) // step
    recorded = np.bincount(bucket[asked], minlength=BUCKETS)
    predicted = np.bincount(bucket[requests], records[requests, replaying.OUTCOME], minlength=BUCKETS).astype(int)
    off = predicted - recorded
    return [
        {"from_s": round(i * step / 1e9, 3), "to_s": round((i + 1) * step / 1e9, 3),
         "recorded": int(recorded[i]), "predicted": int(predicted[i])}
        for i in np.argsort(-np.abs(off), kind="stable")[:count].tolist() if off[i]
    ]  # fmt: skip


def _off(records: R.Words, count: int = 3) -> list[dict[str, Any]]:
    """The invalidations of which the model flushed when the device did not, or the other way round."""
    found = records[records[:, R.KIND] == R.INVALIDATE]
    zero = int(records[:, R.TIME].min()) if len(records) else 0
    wrong = found[(found[:, R.E] ^ found[:, replaying.OUTCOME]) & 1 == 1]
    return [
        {"at_s": round((row[R.TIME] - zero) / 1e9, 4), "cause": Cause(row[R.C]).name, "region": row[R.D],
         "pages": (row[R.B] - row[R.A]) >> 12, "recorded": row[R.E] >> 1, "predicted": row[replaying.OUTCOME] >> 1}
        for row in wrong[:count].tolist()
    ]  # fmt: skip
