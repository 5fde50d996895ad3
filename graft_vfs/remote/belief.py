"""What a client may believe of a log with retention: decision 19.

A log whose newest known commit has no grace period has deleted nothing that comes next: there, each
answer is believed. Elsewhere, an answer about the next LSN is believed if the store gave it at most
a quarter of the grace period after it proved that LSN absent. Otherwise the floor is read *after*
the answer. What the floor has closed, only the rolls tell.

Requests: none more than the answers took, while they are as near to one another as that. Otherwise
one for the floor, and two for each roll if the floor has closed an LSN in question.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence

from graft_vfs.advice import Advice, Hint
from graft_vfs.errors import CorruptObjectError, ExpiredError
from graft_vfs.local.catalog.absences import Absences
from graft_vfs.pages import RemoteLsn
from graft_vfs.remote.commit_reader import Answer, CommitRecord
from graft_vfs.remote.floor import Floor, read_floor
from graft_vfs.remote.log import RemoteLog, existing
from graft_vfs.remote.rolls import Roll, find_roll
from graft_vfs.store.dates import Answered

_ANSWERS_MAX = 64
"""How many answers wait for one look at the floor."""


class Belief:
    """What is believed of a log from a known commit on. Owner: one verb; one thread.

    `head` is the newest known commit, 0 for none, and `grace_seconds` the grace period in it.
    """

    def __init__(
        self, log: RemoteLog, absences: Absences, head: RemoteLsn, grace_seconds: int
    ) -> None:
        self._log = log
        self._head = head
        self._absences = absences
        self._grace_seconds = grace_seconds
        self._roll: Roll | None = None

    @property
    def has_retention(self) -> bool:
        """Whether the log is known to have retention; a later commit may switch it on."""
        return self._grace_seconds > 0

    def believed(self, answers: Iterable[Answer]) -> Iterator[CommitRecord]:
        """Yield the commits of answers about consecutive LSNs, once each is believed.

        The last answer may be that its LSN is absent. Raises ExpiredError if the log has deleted
        one of them, and what reading the answers raises if it has not.
        """
        waiting: list[Answer] = []
        try:
            for answer in answers:
                if self._grace_seconds:
                    waiting.append(answer)
                elif answer.record is not None:
                    self._note(answer.record)
                    yield answer.record
                if len(waiting) == _ANSWERS_MAX:
                    yield from self._checked(waiting)
                    waiting = []
        except CorruptObjectError:
            # A gap, or a chain that a late claim of a closed LSN breaks.
            if self._grace_seconds:
                records = [*existing(waiting)]
                self._require_open(records, RemoteLsn(self._head + len(records) + 1))
                yield from records
            raise
        finally:
            # An error of ours keeps its frames, and these what the answers are read with.
            if isinstance(answers, Generator):
                answers.close()
        if waiting:
            yield from self._checked(waiting)

    def join(self, records: Iterable[CommitRecord]) -> Iterator[CommitRecord]:
        """Yield commits that prove tables, once they are believed; what comes after them is judged.

        With retention, one request for each, and those for the rolls of one that is closed.
        """
        for record in records:
            if record.header.grace_seconds:
                self._require_open([record], None)
            self._note(record)
            yield record

    def outcome(
        self, lsn: RemoteLsn, digest: bytes, answered: Answered, *, is_won: bool, is_created: bool
    ) -> bool:
        """Return True if the claim of an LSN by the commit with this hash is won.

        `is_won` is what the claim's last answer said, `is_created` whether that was the answer to a
        write. Raises CorruptObjectError if the LSN is closed and no roll has it, StoreError.
        """
        if self._grace_seconds and not self._are_near([answered], self._grace_seconds):
            floor = read_floor(self._log.store, self._log.log_id)
            if lsn <= floor.lsn:
                return self._is_first(lsn, digest, floor)
        if self._grace_seconds and is_created:
            self._note_absent(answered)
        return is_won

    def confirmed(
        self, first: RemoteLsn, records: Iterable[CommitRecord]
    ) -> Iterator[CommitRecord]:
        """Yield commits from `first` up to the head that were read, unless they were deleted.

        One more request, for the floor, if the log has retention, and those for its rolls. All of
        them are in memory. Raises ExpiredError.
        """
        if not self._grace_seconds:
            yield from records
            return
        found: list[CommitRecord] = []
        try:
            found += records
        except CorruptObjectError:
            self._require_open(found, RemoteLsn(found[-1].header.lsn + 1) if found else first)
            raise
        self._require_open(found, None)
        yield from found

    def require_newest(self) -> None:
        """Raise ExpiredError if the head cannot be the newest commit, because it is closed.

        One request if the log has retention. A search by keys takes a deleted one for the end.
        """
        floor = read_floor(self._log.store, self._log.log_id) if self._grace_seconds else None
        if floor is not None and floor.lsn >= self._head:
            raise self._expired(RemoteLsn(self._head + 1), floor)

    def has_closed(self, lsn: RemoteLsn, digest: bytes) -> bool:
        """Return True if the log has closed an LSN whose commit has this hash.

        No request if it has no retention.
        """
        if not self._grace_seconds:
            return False
        floor = read_floor(self._log.store, self._log.log_id)
        if lsn > floor.lsn or self._is_switch(lsn):
            return False
        return self._is_first(lsn, digest, floor)

    def _checked(self, waiting: Sequence[Answer]) -> Iterator[CommitRecord]:
        records = [*existing(waiting)]
        graces = [record.header.grace_seconds or self._grace_seconds for record in records]
        grace_seconds = min([self._grace_seconds, *graces])
        if not self._are_near([answer.answered for answer in waiting], grace_seconds):
            absent = waiting[-1].lsn if waiting[-1].record is None else None
            self._require_open(records, absent)
        if waiting[-1].record is None:
            self._note_absent(waiting[-1].answered)
        for record in records:
            self._note(record)
            yield record

    def _note(self, record: CommitRecord) -> None:
        self._head = record.header.lsn
        self._grace_seconds = record.header.grace_seconds or self._grace_seconds

    def _are_near(self, answers: Sequence[Answered], grace_seconds: int) -> bool:
        """Return True if the store gave all answers near the last proof of an absence."""
        store, log_id = self._log.store.describe(), self._log.log_id
        proved_ms = self._absences.proved_ms(log_id, store)
        if proved_ms is None:
            return False
        dates = [answer.date_ms for answer in answers]
        # A date long before the proof is none: that clock was set.
        return all(
            date is not None and abs(date - proved_ms) <= grace_seconds * 1000 // 4
            for date in dates
        )

    def _require_open(self, records: Sequence[CommitRecord], absent: RemoteLsn | None) -> None:
        """Raise ExpiredError if the log has closed one that is absent, or first had another."""
        floor = read_floor(self._log.store, self._log.log_id)
        for header in (record.header for record in records):
            lsn = header.lsn
            # Those before the first with a grace period are never deleted.
            is_closed = header.grace_seconds and lsn <= floor.lsn
            if is_closed and not self._is_kept(lsn, header.hash, floor):
                raise self._expired(lsn, floor)
        if absent is not None and absent <= floor.lsn:
            raise self._expired(absent, floor)

    def _is_first(self, lsn: RemoteLsn, digest: bytes, floor: Floor) -> bool:
        """Return True if the commit with this hash first had a closed LSN, by the rolls."""
        if self._roll is None or not self._roll.first <= lsn <= self._roll.last:
            self._roll = find_roll(self._log.store, self._log.log_id, lsn)
        if self._roll is None:
            if not self._log.store.can_list:
                raise self._expired(lsn, floor)
            raise CorruptObjectError(
                f"log {self._log.log_id} has closed LSN {lsn}, and no roll of it says which commit "
                "that was",
                next_step="restore the rolls of the log from a replica or a backup",
            )
        return self._roll.hash_of(lsn) == digest

    def _is_kept(self, lsn: RemoteLsn, digest: bytes, floor: Floor) -> bool:
        """Return True if a commit that was read at a closed LSN is the one that first had it."""
        try:
            return self._is_first(lsn, digest, floor)
        except (CorruptObjectError, ExpiredError):
            if self._is_switch(lsn):
                return True
            raise

    def _is_switch(self, lsn: RemoteLsn) -> bool:
        """Return True if an LSN has the first commit with a grace period, which no roll has."""
        before = self._log.read_header(RemoteLsn(lsn - 1)) if lsn > 1 else None
        return lsn == 1 or (before is not None and not before.header.grace_seconds)

    def _expired(self, lsn: RemoteLsn, floor: Floor) -> ExpiredError:
        what = f"LSN {lsn} of log {self._log.log_id} was deleted by the log's retention"
        if lsn <= self._head:
            return ExpiredError(what, next_step=f"LSN {floor.lsn + 1} and later ones are there")
        return ExpiredError(
            f"{what}, as all up to LSN {floor.lsn} may be, and this machine has not read it",
            next_step=Hint(
                "keep local commits with ",
                Advice.EXPORT,
                "; then ",
                Advice.CLONE_OVER(LOG=self._log.log_id),
                " follows the remote",
            ),
        )

    def _note_absent(self, answered: Answered) -> None:
        date_ms = answered.date_ms
        if date_ms is not None:
            keeps_ms = self._grace_seconds * 1000 // 16
            store = self._log.store.describe()
            self._absences.note(self._log.log_id, store, date_ms, keeps_ms=keeps_ms)
