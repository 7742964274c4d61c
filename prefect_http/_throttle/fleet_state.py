"""FleetState: what the throttles of several processes share of one key. Pure: times are arguments.

All that one process does is to send a Report now and then, and to get a Lease back:

    process ── Report: my answers, my queue, my closure ──> synced() ── Lease: my turns, and what all know ──> process
                                                           │    ^
                                                           v    │
                                                     the state, as a text, in a Store

- Closing is commutative: the latest time that any process was asked to wait for holds for all of them.
- Opening is not. The process that closed the gate is the learner of this closure: it alone sends the probe, and learns
  from what all processes have sent. If it has nothing left to send, or is not heard of any more, the next one that
  wants to send takes its place, and finds all that is known here.
- While a rate is known, requests are sent in turns: moments that lie ``1 / rate`` apart, and of which each process gets
  a few at a time, for as many requests as it has in its queue, but no more than its share of a second. So the server
  sees the same as from a single process, and nobody waits for a process that has nothing to send.
- While none is known, each process begins with its share of the requests in flight with which a single one begins, and
  goes on slowly at first: what all of them send until they have heard of the first rejection is rejected, too.
- A process says for how long it is to be remembered. If it is not heard of by then, it is forgotten.

All times here are those of the store's clock.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from typing import cast

from prefect_http._throttle.curve import Curve

# For how many seconds at least a process is remembered, and may go on without asking again.
LEASE = 1.0
# More processes than that are not remembered, although they get turns: the state must not grow without bounds.
MAX_MEMBERS = 1000
# How many seconds all processes together have turns for at the beginning of a cycle; later, as long as their lease.
_FIRST_HORIZON, _FIRST_HORIZON_EACH = 0.1, 0.02
# In seconds: by then, a process that was alone has heard that it no longer is.
_UNTIL_HEARD = 0.05
# A clock that goes back by less is a rounding error, or two servers of one cluster.
_SMALLEST_STEP_BACK = 0.1
_FORMAT = 2


@dataclass(frozen=True, slots=True)
class Turns:
    """Moments at which a process may send a request each.

    Attributes:
        start: the first; from then on, or later.
        step: how many seconds later the next one is.
        count: how many there are.
    """

    start: float = 0.0
    step: float = 0.0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Member:
    """A process.

    Attributes:
        until: when it is forgotten.
        report: the number of its last report, so that one which arrives twice counts once.
        turns: those that it got for that.
    """

    until: float
    report: int
    turns: Turns = Turns()


@dataclass(frozen=True, slots=True)
class FleetState:
    """What all processes know.

    Attributes:
        at: when it was written.
        cycle: how many times the gate has been opened.
        closed_until: when a probe may be sent; None while the gate is open.
        learner: which process sends the probe; empty: any that wants to.
        learner_until: when another process may take its place.
        curve: the rate that has been learned; None if there is none.
        done: how many answers have moved it.
        begun_by: which report began this cycle, see ``Report.name``; empty: none yet. It tells one cycle from another.
            The number of openings does not, if the store has lost some, nor does the time, if its clock has changed.
        began: when this cycle began.
        accepted: how many requests of this cycle were accepted.
        next_turn: the first turn that has not been assigned.
        members: the processes that use it.
    """

    at: float = 0.0
    cycle: int = 0
    closed_until: float | None = None
    learner: str = ""
    learner_until: float = 0.0
    curve: Curve | None = None
    done: float = 0.0
    begun_by: str = ""
    began: float = 0.0
    accepted: float = 0.0
    next_turn: float = 0.0
    members: dict[str, Member] = field(default_factory=dict[str, Member])


@dataclass(frozen=True, slots=True)
class Opening:
    """That a probe was accepted.

    Attributes:
        probed_at: when it was sent.
        begins_cycle: whether a new cycle begins: what was accepted before counts no more.
    """

    probed_at: float
    begins_cycle: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a process tells the others.

    Attributes:
        member: its name.
        number: of the report. A report that is sent again has the same one.
        cycle: the cycle that the counts belong to.
        accepted: how many requests of this cycle were accepted since the last report.
        done: how many answers have moved the curve since then.
        closed_until: until when its own gate is closed by what it was told by the server; None if it is not.
        opening: that its probe was accepted; None if none was.
        has_learned: whether it is the learner, and ``curve`` is news.
        curve: the curve that it has.
        lease: for how many seconds it will not ask again.
        is_waiting: whether it has a request in its queue, or a probe on its way.
        wants: for how many requests it would like to have turns.
        unused: how many of its turns it still has.
        is_leaving: whether this is its last report.
    """

    member: str
    number: int
    cycle: int = 0
    accepted: float = 0.0
    done: float = 0.0
    closed_until: float | None = None
    opening: Opening | None = None
    has_learned: bool = False
    curve: Curve | None = None
    lease: float = LEASE
    is_waiting: bool = False
    wants: int = 0
    unused: int = 0
    is_leaving: bool = False

    @property
    def name(self) -> str:
        """What tells it from all other reports, of any process."""
        return f"{self.member}.{self.number}"


@dataclass(frozen=True, slots=True)
class Lease:
    """What a process is told.

    Attributes:
        state: what all know.
        turns: further turns for it.
        is_learner: whether it may send the probe.
    """

    state: FleetState
    turns: Turns
    is_learner: bool


@dataclass(frozen=True, slots=True)
class KnownRate:
    """A limit that the users know, of all processes together.

    Attributes:
        rate: in requests per second.
        burst: how many requests may be sent at once after a pause.
    """

    rate: float = math.inf
    burst: int = 1


def synced(state: FleetState, report: Report, known: KnownRate, now: float) -> tuple[FleetState, Lease]:
    """Return the state with a report, and what the process is told.

    Args:
        state: as it was stored, or a new one.
        report: of one process.
        known: the limit that the users know.
        now: the time.
    """
    if state.at == 0.0:
        state = FleetState(at=now, begun_by=report.name, began=now)
    state = _at(state, now)
    before = state.members.get(report.member)
    if before is not None and before.report == report.number:  # only the answer to it was lost
        return state, Lease(state, before.turns, state.learner == report.member)
    state = _counted(state, report)
    if report.opening is not None and state.closed_until is not None and state.learner == report.member:
        state = _opened(state, report, report.opening, known, now)
    elif report.has_learned and state.learner == report.member and report.cycle == state.cycle:
        state = replace(state, curve=report.curve, done=0.0)
    if report.closed_until is not None:
        state = _closed(state, report, report.closed_until, now)
    if state.closed_until is not None:
        state = _with_learner(state, report, state.closed_until, now)
    turns = Turns()
    members = {name: member for name, member in state.members.items() if name != report.member}
    if report.is_leaving:
        state = _without_unused_turns(state, report, before, known, now)
    else:
        state, turns = _allotted(state, report, known, len(members) + 1, now)
        if len(members) < MAX_MEMBERS:
            until = now if state.closed_until is None else max(now, state.closed_until)
            members[report.member] = Member(until + report.lease, report.number, turns)
    state = replace(state, members=members)
    return state, Lease(state, turns, state.learner == report.member)


def rate_of(state: FleetState, known: KnownRate) -> float:
    """Return how many requests all processes may send per second; infinity if no rate is known."""
    learned = math.inf if state.curve is None else state.curve.rate(state.done)
    return min(learned, known.rate)


def _at(state: FleetState, now: float) -> FleetState:
    """Return the state without the processes that were not heard of, and in terms of a clock that has gone back."""
    state = _moved_back(state, now)
    return replace(state, at=now, members={name: m for name, m in state.members.items() if m.until > now})


def completed(state: FleetState, known: FleetState, now: float) -> FleetState:
    """Return a state with what a process knows of its cycle, if the store has lost some of that.

    Args:
        state: as it was stored.
        known: what the process knew when it asked last, in terms of the present clock.
        now: the time on that clock.
    """
    if state.begun_by != known.begun_by:
        return state
    # A process knows by how much the clock has changed. The times in the store are moved by a guess, if at all.
    state = replace(_moved_back(state, now), began=known.began)
    # The count grows, also with an opening that begins no cycle, so the larger one is the newer, but for a few requests
    # that were taken back because they had been rejected.
    return replace(state, accepted=max(state.accepted, known.accepted))


def moved_ahead(state: FleetState, jump: float, now: float) -> FleetState:
    """Return a state in terms of a clock that has jumped ahead, unless it is in these already.

    Args:
        state: as it was stored.
        jump: by how many seconds the clock has jumped ahead, and less long ago than that; 0 if it has not. If a clock
            goes back, ``synced()`` takes care of that.
        now: the time on that clock.
    """
    return state if state.at + jump > now + LEASE else moved(state, jump)


def _moved_back(state: FleetState, now: float) -> FleetState:
    """Return a state in terms of a clock that has gone back because another server has taken over, if it has."""
    return moved(state, now - state.at) if is_ahead(state, now) else state


def is_ahead(state: FleetState, now: float) -> bool:
    """Return whether a state comes from the future, as it seems when the clock has gone back."""
    return state.at > now + _SMALLEST_STEP_BACK


def moved(state: FleetState, ahead: float) -> FleetState:
    """Return a state in terms of a clock that is so many seconds ahead, or behind if that is negative."""
    if state.at == 0.0:  # a new state is that of no clock
        return state
    closed_until = state.closed_until
    return replace(
        state,
        at=state.at + ahead,
        closed_until=None if closed_until is None else closed_until + ahead,
        learner_until=state.learner_until + ahead,
        began=state.began + ahead,
        next_turn=state.next_turn + ahead,
        members={name: _moved_member(member, ahead) for name, member in state.members.items()},
    )


def _moved_member(member: Member, ahead: float) -> Member:
    turns = replace(member.turns, start=member.turns.start + ahead)
    return replace(member, until=member.until + ahead, turns=turns)


def _counted(state: FleetState, report: Report) -> FleetState:
    if report.cycle != state.cycle:
        return state
    return replace(state, accepted=state.accepted + report.accepted, done=state.done + report.done)


def _opened(state: FleetState, report: Report, opening: Opening, known: KnownRate, now: float) -> FleetState:
    state = replace(
        state,
        cycle=state.cycle + 1,
        closed_until=None,
        curve=report.curve,
        done=0.0,
        begun_by=report.name if opening.begins_cycle else state.begun_by,
        began=opening.probed_at if opening.begins_cycle else state.began,
        accepted=1.0 if opening.begins_cycle else state.accepted + 1.0,
    )
    return replace(state, next_turn=min(opening.probed_at, now) + 1 / rate_of(state, known))


def _closed(state: FleetState, report: Report, until: float, now: float) -> FleetState:
    if state.closed_until is not None:
        until = max(state.closed_until, until)
    elif report.cycle != state.cycle and until <= now:  # it has not heard yet that the gate has been opened since
        return state
    else:
        state = replace(state, learner=report.member, learner_until=0.0)
    # Meanwhile the others have nothing to ask. They must not be forgotten, or the first to come back would take all.
    members = {name: replace(m, until=max(m.until, until + report.lease)) for name, m in state.members.items()}
    return replace(state, closed_until=until, members=members)


def _with_learner(state: FleetState, report: Report, closed_until: float, now: float) -> FleetState:
    """Return the state with a learner for this closure, if there is a process that wants to send."""
    learner = state.learner
    is_away = bool(learner) and learner != report.member and state.learner_until <= now
    is_waiting = report.is_waiting and not report.is_leaving
    if learner == report.member and not is_waiting:
        return replace(state, learner="")
    if is_waiting and (not learner or learner == report.member or is_away):
        return replace(state, learner=report.member, learner_until=max(closed_until, now) + report.lease)
    return state


def _allotted(
    state: FleetState, report: Report, known: KnownRate, members: int, now: float
) -> tuple[FleetState, Turns]:
    """Return the state with further turns for a process, and those."""
    rate = rate_of(state, known)
    if state.closed_until is not None or math.isinf(rate):
        return state, Turns()
    if members == 1 and math.isinf(known.rate):
        return state, Turns()  # it keeps to the rate by itself, and need not know each moment long before
    unused = report.unused if report.cycle == state.cycle else 0
    # A rate that was learned a moment ago may be far too high: then the first to come would get all that there is.
    horizon = min(max(now - state.began, _FIRST_HORIZON, _FIRST_HORIZON_EACH * members), report.lease)
    count = min(report.wants, max(1, int(rate * horizon / members))) - unused
    if count <= 0:
        return state, Turns()
    step = 1 / rate
    is_second = members == 2 and report.member not in state.members
    first = max(state.next_turn, now + _UNTIL_HEARD if is_second else now)
    return replace(state, next_turn=first + count * step), Turns(first - (known.burst - 1) * step, step, count)


def _without_unused_turns(
    state: FleetState, report: Report, before: Member | None, known: KnownRate, now: float
) -> FleetState:
    """Return the state in which the last turns of a process that leaves are free again, if nobody's come after them."""
    if before is None or not report.unused or report.cycle != state.cycle:
        return state
    turns = before.turns
    end = turns.start + (turns.count + known.burst - 1) * turns.step
    if not math.isclose(end, state.next_turn, abs_tol=1e-6):
        return state
    return replace(state, next_turn=max(now, state.next_turn - min(report.unused, turns.count) * turns.step))


def to_text(state: FleetState) -> str:
    """Return a state as a text."""
    curve = state.curve
    return json.dumps(
        [
            _FORMAT,
            state.at,
            state.cycle,
            state.closed_until,
            state.learner,
            state.learner_until,
            None if curve is None else [curve.base, curve.ceiling, curve.span],
            state.done,
            state.begun_by,
            state.began,
            state.accepted,
            state.next_turn,
            {
                name: [m.until, m.report, m.turns.start, m.turns.step, m.turns.count]
                for name, m in state.members.items()
            },
        ],
        separators=(",", ":"),
    )


def from_text(text: str) -> FleetState:
    """Return the state that a text stands for; a new one for an empty text.

    Raises:
        ValueError: it is no state, or one of another version of the package.
    """
    if not text:
        return FleetState()
    try:
        form, *fields = json.loads(text, parse_constant=_refuse_constant)
        if form != _FORMAT:
            raise ValueError("written by another version of prefect_http; give it another prefix")
        at, cycle, until, learner, learner_until, curve, done, begun_by, began, accepted, next_turn, members = fields
        return FleetState(
            at=float(at),
            cycle=int(cycle),
            closed_until=None if until is None else float(until),
            learner=str(learner),
            learner_until=float(learner_until),
            curve=None if curve is None else _curve(*map(float, curve)),
            done=float(done),
            begun_by=str(begun_by),
            began=float(began),
            accepted=float(accepted),
            next_turn=float(next_turn),
            members={
                str(name): Member(float(m[0]), int(m[1]), Turns(float(m[2]), float(m[3]), int(m[4])))
                for name, m in cast("dict[str, list[float]]", members).items()
            },
        )
    except (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"the shared state cannot be read: {error}") from error


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _curve(base: float, ceiling: float, span: float) -> Curve:
    if min(base, ceiling, span) <= 0:
        raise ValueError("a rate is not positive")
    return Curve(base, ceiling, span)
