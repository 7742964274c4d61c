"""Share: what one process may send of a key that it shares with others, and what it has to tell them. Pure.

It stands between the Limiter of the process and the FleetState, and between two clocks: that of the event loop, in
which all its own times are, and that of the store.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, replace

from prefect_http._throttle.curve import Curve
from prefect_http._throttle.fleet_state import LEASE, FleetState, KnownRate, Lease, Opening, Report, Turns, moved

# Of the offsets between the two clocks that were seen last, the smallest is the one with the least delay in it.
_OFFSETS = 8
# A lease is longer if there are many processes, or the store is slow: each exchange takes the store at least one round
# trip, in which no other one gets through. So many seconds, and so many round trips, for each process:
_LEASE_PER_MEMBER, _TRIPS_PER_MEMBER = 0.05, 4.0
_LONGEST_LEASE = 10.0
# How long a round trip of a slow store takes, in seconds.
_SLOW_TRIP = 0.01
# The least time between two reports, in seconds, unless there is news.
_SHORTEST_PAUSE = 0.01
# How much later than the learner the others look whether the gate has been opened, if nothing has told them.
_LATER = 0.25
# The learner may probe only if it has asked the others no longer than that before the closure's end, in seconds.
_EARLY = 0.02
# In seconds: by then, all processes have noticed that the store can be reached again.
_UNTIL_BACK = 2 * LEASE
# A lease is renewed when this share of it is over.
_RENEW_AFTER = 0.75
# Further turns are requested when no more than this share of those that were allotted is left.
_FEW_LEFT = 0.25
# In requests per second of all processes together, while no rate is known; and how much more for each one that was
# accepted. All that they send until they hear of the first rejection, some milliseconds later, is rejected as well.
_FIRST_RATE, _GROWTH = 100.0, 5.0
# In seconds: processes that are started together come one after the other.
_UNTIL_OTHERS_JOIN = 0.08
# How many seconds late, and a round trip to the store, a turn of a limit that the users know may be used.
_LATEST = 0.02


@dataclass(slots=True)
class _Block:
    """Turns that lie next to each other; see Turns. They may be used late, but not after ``until``."""

    due: float
    step: float
    count: int
    until: float


class Share:
    """The part of one process.

    Args:
        member: the name of the process, different from all others.
        known: the limit that the users know, of all processes together.

    Attributes:
        known: likewise.
        members: how many processes share the key, this one included. While the store cannot be reached: how many there
            were when it was lost.
        state: what all processes knew when this one asked last, in terms of the store's present clock.
        is_alone: whether the store cannot be reached: then the process goes on with the share that it had last.
        is_learner: whether this process may send the probe.
        doubts: how many rejections that may be faults the others have not been told of.
    """

    def __init__(self, member: str, known: KnownRate) -> None:
        self.known = known
        self.members: int = 1
        self.state = FleetState()
        self.is_alone: bool = False
        self.is_learner: bool = False
        self._member = member
        self._number = 0
        self._lease_until = self._joined_at = -math.inf
        self._blocks: deque[_Block] = deque()
        self._allotted = 0
        self._booked = -math.inf  # as in KnownLimit, for this process alone
        self._step = 0.0  # that of the turn which was used last
        self._offsets: deque[float] = deque(maxlen=_OFFSETS)
        self._trips: deque[float] = deque(maxlen=_OFFSETS)
        self._asked_at = self._synced_at = -math.inf
        self._sent = 0
        self._sent_before = 0.0
        self._told_until = -math.inf
        self._opening: Opening | None = None
        self._has_learned = False
        self._members_before = 0  # how many there were when the store was lost
        # How many accepted requests of this cycle this process has told since then. The processes that are missing may
        # have sent some as well, and have not told.
        self._told_since_lost = 0.0
        self._reconnected_at = -math.inf
        self._began_alone = False  # whether the others do not know of this cycle
        self.doubts: int = 0
        self._clock_seen_at = self._jumped_at = -math.inf
        self._jump = 0.0
        self._hurry_at = math.inf

    # --- What the Limiter asks

    def is_valid(self, now: float) -> bool:
        """Return whether anything may be sent without asking the others first."""
        return self.is_alone or now <= self._lease_until

    def may_probe(self, until: float) -> bool:
        """Return whether this process may send the probe of a closure that ends at ``until``."""
        return self.is_alone or (self.is_learner and self._synced_at >= until - _EARLY)

    def next_turn(self, now: float, rate: float, last_sent: float) -> float:
        """Return when the next request may be sent at this rate of all processes; infinity if they must be asked."""
        if self.is_alone or self._is_by_itself:
            return last_sent + self._all_members(now) / rate
        self._drop_late_turns(now)
        if not self._blocks:
            return math.inf
        block = self._blocks[0]
        # Late turns are not made up for all at once, but no more than the users know to be accepted.
        if self._is_exact:
            return max(block.due, self._booked - (self.known.burst - 1) * block.step)
        return max(block.due, last_sent + block.step / 2)

    def _drop_late_turns(self, now: float) -> None:
        while self._blocks and self._blocks[0].until < now:
            self._blocks.popleft()
        if not self._is_exact:
            return
        # Those that are used later come on top of those that others use in time.
        latest = now - _LATEST - self.shortest_trip
        while self._blocks:
            block = self._blocks[0]
            late = math.ceil((latest - block.due) / block.step) - self.known.burst + 1
            if late < block.count:
                block.due += max(0, late) * block.step
                block.count -= max(0, late)
                return
            self._blocks.popleft()

    def first_interval(self, now: float, own: float) -> float:
        """Return how many seconds lie between two requests of this process while no rate is known.

        Args:
            now: the time.
            own: how many of its requests were accepted that are not yet in the state.
        """
        members = self._all_members(now)
        if members == 1 and now >= self._joined_at + _UNTIL_OTHERS_JOIN:
            return 0.0
        return members / (_FIRST_RATE + _GROWTH * (self.state.accepted + members * own))

    @property
    def _is_exact(self) -> bool:
        """Whether the users know the limit, so that never more than that may be sent."""
        return self.known.rate < math.inf

    @property
    def _is_by_itself(self) -> bool:
        """Whether no turns are needed, because there is nobody else. A limit that the users know is kept by turns."""
        return self.members == 1 and not self._is_exact

    def sent(self, now: float) -> None:
        """Record that a request is sent, which uses up a turn if there is any."""
        self._sent += 1
        if self._blocks:
            block = self._blocks[0]
            self._step = block.step
            self._booked = max(self._booked, now) + block.step
            block.due += block.step
            block.count -= 1
            if not block.count:
                self._blocks.popleft()

    def withdrawn(self, now: float) -> None:
        """Record that a request which was recorded as sent is not sent; its turn can be used by the next one."""
        self._sent -= 1
        if not self.is_alone and self._allotted:
            self._booked -= self._step
            # The next one need not keep its distance to what was not sent.
            step = 1 / self.known.rate if self._is_exact else 0.0
            self._blocks.appendleft(_Block(now, step, 1, now + LEASE))

    def cycle_so_far(self, own: float, untold: float, own_began: float, now: float) -> tuple[float, float]:
        """Return since when the cycle lasts, and about how many requests of it were accepted.

        What the others have sent since the store was lost is not known before they are back. Until then, as much is
        assumed for each of them as this process has sent that it had not told when the store was lost.

        Args:
            own: how many of this process.
            untold: how many of these are not yet in the state.
            own_began: when the cycle began as this process saw it.
            now: the time.
        """
        members = self._all_members(now)
        if self._began_alone or not self._offsets:
            return own_began, own * members
        missing = members - (1 if self.is_alone else self.members)
        of_each = max(0.0, self._told_since_lost + untold)  # rejections that seemed to be faults are taken back
        return min(self.local_time(self.state.began), now), self.state.accepted + untold + of_each * missing

    def is_single(self, now: float) -> bool:
        """Return whether all that was accepted in this cycle was accepted from this process, as far as is known."""
        return self._all_members(now) == 1

    def _all_members(self, now: float) -> int:
        """Return how many processes there are, with those that have not come back since the store was lost."""
        return max(self.members, self._members_before) if now < self._reconnected_at + _UNTIL_BACK else self.members

    # --- What happens to the gate

    def opened(self, probed_at: float, *, begins_cycle: bool) -> None:
        """Record that the probe was accepted: the others are to hear of it."""
        self._blocks.clear()
        if begins_cycle:
            self._began_alone, self._told_since_lost = self.is_alone, 0.0
        if not self.is_alone:
            self._opening = Opening(probed_at, begins_cycle)
            self._lease_until = -math.inf

    def learned(self) -> None:
        """Record that there is another curve, or none."""
        self._has_learned = True

    def closure_was_lost(self) -> None:
        """Record that the others do not know of this process's closure, although they have been told."""
        self._told_until = -math.inf

    def doubted(self) -> None:
        """Record a rejection that may be a fault: whether it is one, all that the others see will tell."""
        if self.members > 1:
            self.doubts += 1

    def hurry(self, at: float) -> None:
        """Record that the others have news."""
        self._hurry_at = min(self._hurry_at, at)

    # --- The exchange with the others

    @property
    def _offset(self) -> float:
        """What is to be added to a time of the store."""
        return min(self._offsets)

    @property
    def has_news(self) -> bool:
        """Whether the others do not know yet that the gate was opened, or what was learned."""
        return self._opening is not None or self._has_learned

    @property
    def knows_clock(self) -> bool:
        """Whether the clock of the store is known."""
        return bool(self._offsets)

    def store_time(self, now: float) -> float:
        """Return the time of the store's clock."""
        return now - self._offset

    def local_time(self, stored: float) -> float:
        """Return a time of the store's clock on that of the event loop."""
        return stored + self._offset

    def is_about_now(self, stored: float, now: float) -> bool:
        """Return whether a time is about the present on the store's clock; if not, it may be that of another clock."""
        return abs(self.store_time(now) - stored) < LEASE

    def saw_clock(self, stored: float, asked_at: float, now: float) -> float:
        """Record a time of the store's clock which was read between two of the event loop's.

        Returns:
            By how many seconds the clock has jumped, because another server has taken over; 0 if it has not.
        """
        jump = stored - self.store_time(now) if self._offsets else 0.0
        if abs(jump) > LEASE:
            self._offsets.clear()
            self.state = moved(self.state, jump)
        else:
            jump = 0.0
        if jump > now - self._clock_seen_at:
            self._jump, self._jumped_at = jump, now
        self._clock_seen_at = now
        self._offsets.append(now - stored)
        self._trips.append(now - asked_at)
        return jump

    def recent_jump(self, now: float) -> float:
        """Return by how many seconds the clock has jumped ahead, less long ago than that; 0 if it has not."""
        return self._jump if now - self._jumped_at < self._jump else 0.0

    @property
    def shortest_trip(self) -> float:
        """How many seconds the store has taken to answer at best, of late; 0 if that is not known."""
        return min(self._trips, default=0.0)

    @property
    def is_store_slow(self) -> bool:
        """Whether a call that is refused costs more than to be told the state with each change."""
        return self.shortest_trip >= _SLOW_TRIP

    @property
    def lease(self) -> float:
        """For how many seconds this process asks for."""
        each = max(_LEASE_PER_MEMBER, _TRIPS_PER_MEMBER * self.shortest_trip)
        return min(max(LEASE, self.members * each), _LONGEST_LEASE)

    def unused(self, now: float) -> int:
        """Return how many turns are left."""
        self._drop_late_turns(now)
        return sum(block.count for block in self._blocks if block.until >= now)

    def next_report(
        self, now: float, *, waiting: int, in_flight: int, own_until: float, closed_until: float | None, has_rate: bool
    ) -> float:
        """Return when the others are to be asked, or told; infinity if there is nothing to ask.

        Args:
            now: the time.
            waiting: how many requests are in the queue.
            in_flight: how many have been sent and not been answered.
            own_until: until when the server has told this process to wait; minus infinity if it has not.
            closed_until: until when the gate is closed; None if it is open.
            has_rate: whether a rate is known, so that turns are needed.
        """
        # If the store is slow, all others need time to get through as well.
        soon = self._asked_at + max(_SHORTEST_PAUSE, 2 * self.members * self.shortest_trip)
        if self.is_alone:
            # In time for what was told last to count once, should only the answer have been lost.
            return self._asked_at + LEASE * _RENEW_AFTER if waiting or in_flight else math.inf
        if own_until > self._told_until or self.has_news or self.doubts:
            return soon
        if self.is_learner and closed_until is not None and not (waiting or in_flight):
            return soon
        if not (waiting or in_flight):
            return math.inf
        hurry = max(self._hurry_at, soon)
        due = self._asked_at + self.lease * _RENEW_AFTER
        if closed_until is not None:
            if waiting:
                is_mine = self.is_learner or not self.state.learner
                look_at = closed_until if is_mine else closed_until + _LATER
                if now < look_at:
                    due = min(look_at, self._asked_at + _LONGEST_LEASE)
                elif self.is_learner and not self.may_probe(closed_until):
                    due = soon
        elif (waiting and not self.is_valid(now)) or (
            waiting and has_rate and not self._is_by_itself and self.unused(now) <= self._allotted * _FEW_LEFT
        ):
            due = soon
        return min(due, hurry)

    def report(
        self,
        now: float,
        *,
        accepted: float,
        done: float,
        own_until: float,
        curve: Curve | None,
        waiting: int,
        is_waiting: bool,
        is_leaving: bool = False,
    ) -> Report:
        """Return what is to be told, in times of the event loop; see ``in_store_time()``.

        Args:
            now: the time.
            accepted: how many requests of this cycle were accepted since the last report.
            done: how many answers have moved the curve since then.
            own_until: as for ``next_report()``.
            curve: the present one.
            waiting: how many requests are in the queue.
            is_waiting: whether there are any, or a probe is on its way.
            is_leaving: whether this is the last report.
        """
        self._number += 1
        self._hurry_at = math.inf
        elapsed = max(now - self._asked_at, _SHORTEST_PAUSE)
        recently = max(self._sent, self._sent_before * (1 - elapsed / self.lease))
        self._sent, self._sent_before = 0, recently
        return Report(
            member=self._member,
            number=self._number,
            cycle=self.state.cycle,
            accepted=accepted,
            done=done,
            closed_until=own_until if own_until > self._told_until else None,
            opening=self._opening,
            has_learned=self._has_learned,
            curve=curve,
            lease=self.lease,
            is_waiting=is_waiting,
            # Turns for requests that may never come would be used later, on top of those of others.
            wants=waiting if self._is_exact else waiting + math.ceil(recently / 2),
            unused=self.unused(now),
            is_leaving=is_leaving,
        )

    def in_store_time(self, report: Report) -> Report:
        """Return a report in times of the store."""
        until, opening = report.closed_until, report.opening
        return replace(
            report,
            closed_until=None if until is None else self.store_time(until),
            opening=None if opening is None else replace(opening, probed_at=self.store_time(opening.probed_at)),
        )

    def asked(self, now: float) -> None:
        """Record that the others are being asked."""
        self._asked_at = now

    def apply(self, report: Report, lease: Lease, asked_at: float, now: float) -> None:
        """Take over what the others have answered to a report.

        Args:
            report: the report, in times of the event loop.
            lease: the answer, in times of the store.
            asked_at: when they were asked.
            now: the time.
        """
        state, turns = lease.state, lease.turns
        if state.cycle != self.state.cycle or state.closed_until is not None:
            self._blocks.clear()
        if state.begun_by != self.state.begun_by:
            self._began_alone, self._told_since_lost = False, 0.0
        else:
            self._told_since_lost += report.accepted
        self.state, self.is_learner = state, lease.is_learner
        self.members = max(1, len(state.members))
        if self._lease_until == -math.inf:
            self._joined_at = now
        self._lease_until = -math.inf if report.is_leaving else asked_at + report.lease
        self._synced_at = now
        if report.closed_until is not None:
            self._told_until = max(self._told_until, report.closed_until)
        if report.opening is self._opening:  # or else there has been another one
            self._opening = None
        if report.has_learned:
            self._has_learned = False
        self._add(turns, now)

    def _add(self, turns: Turns, now: float) -> None:
        if turns.count:
            start = self.local_time(turns.start)
            end = start + turns.count * turns.step
            self._blocks.append(_Block(start, turns.step, turns.count, max(end, now) + LEASE))
        self._allotted = self.unused(now)

    def left(self) -> None:
        """Record that the others count on this process no longer: before it sends anything, it has to ask."""
        self._lease_until = -math.inf
        self._blocks.clear()

    def store_reached(self, now: float) -> None:
        """Record that the others can be reached."""
        if self.is_alone:
            self._reconnected_at = now
        self.is_alone = False

    def store_lost(self, now: float) -> None:
        """Record that the others cannot be reached; nothing changes if they could not be before."""
        if self.is_alone:
            return
        members = self._all_members(now)
        # All others are missing now. What was assumed for those that were missing before is spread over all of them.
        others = max(1, members - 1)
        self._told_since_lost *= (members - self.members) / others
        self.members = self._members_before = members
        self.is_alone = True
