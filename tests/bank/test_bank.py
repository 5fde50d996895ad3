"""A bank whose processes are killed: money is neither made nor lost, and no transfer forgotten.

Tellers transfer in one data directory; couriers push from it; auditors read long snapshots and
fork; branches follow in data directories of their own. All of them are killed with SIGKILL again
and again, and replaced. Each checks every snapshot that it reads (`ledger.audit`). When the plan is
done, the test proves of every machine, every fork and every remote LSN what design.md promises:
the sum is right, what was acknowledged is in the journal once, and SQLite finds no damage.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from graft_vfs.engine.config import RemoteConfig
from tests.bank import ledger
from tests.support.replicas import Replica

ROOT = Path(__file__).parents[2]
_PATIENCE_SECONDS = 240


@dataclass(frozen=True)
class Plan:
    """How large a bank: the least that is transferred, and over how many kills that is spread."""

    transfers: int
    kills: int
    tellers: int = 2
    threads: int = 3
    branches: int = 2
    seed: int = 1
    pause_seconds: float = 0.0
    """How long a teller's thread rests between transfers, where pushes take long: else the journal
    would grow so large that proving it takes hours."""
    lsns_proved_max: int = 1000


class Employee:
    """One process, and a thread that hears what it says. Owner: its bank."""

    def __init__(self, bank: Bank, post: str, job: dict[str, object]) -> None:
        self.post = post
        self.is_killed = False
        self._bank = bank
        command = [sys.executable, "-m", "tests.bank.employee", json.dumps(job)]
        environment = {name: at for name, at in os.environ.items() if not name.startswith("GRAFT_")}
        environment["PYTHONPATH"] = str(ROOT)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self._hearing = threading.Thread(target=self._hear)
        self._hearing.start()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._bank.heard(line.split())
        status = self._process.wait()
        self._bank.left(self, status)

    def kill(self) -> None:
        """End it with SIGKILL, wherever it is; what it said before is heard."""
        self.is_killed = True
        self._process.kill()
        self._close()

    def dismiss(self) -> None:
        """Tell it to end by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()

    def join(self) -> None:
        """Wait until it has ended and everything it said was heard."""
        self._hearing.join()
        self._close()

    def _close(self) -> None:
        self._hearing.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@dataclass
class Bank:
    """All processes of one run. Thread rule: `heard` and `left` from any thread."""

    directory: Path
    remote: RemoteConfig
    plan: Plan
    paid: list[str] = field(default_factory=list)
    forks: list[str] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    _staff: dict[str, Employee] = field(default_factory=dict)
    _news: threading.Condition = field(default_factory=threading.Condition)
    _hired: int = 0

    @property
    def head_office(self) -> Path:
        return self.directory / "head-office"

    def branch(self, number: int) -> Path:
        return self.directory / f"branch-{number}"

    def heard(self, words: list[str]) -> None:
        """Take in one line of a process."""
        with self._news:
            self.done[words[0]] += 1
            if words[0] == "paid":
                self.paid.append(words[1])
            elif words[0] == "forked":
                self.forks.append(words[1])
            self._news.notify_all()

    def left(self, employee: Employee, status: int) -> None:
        """Take in a process's end: by itself and well, or by the kill of this test."""
        with self._news:
            if status != 0 and not (employee.is_killed and status == -signal.SIGKILL):
                self.failures.append(f"{employee.post} ended with {status}")
            self._news.notify_all()

    def open(self) -> None:
        """Make the accounts and push them."""
        with Replica(self.head_office, self.remote) as machine:
            ledger.open_bank(machine.connect())
            machine.engine.push("main")

    def run(self) -> None:
        """Work, with kills, until enough transfers were paid and every kind of work was done."""
        chance = random.Random(self.plan.seed)
        try:
            for post in self._posts():
                self._hire(post)
            for number in range(1, self.plan.kills + 1):
                self._await_work(number)
                victim = self._staff[chance.choice(self._posts())]
                victim.kill()
                self.done["killed"] += 1
                self._hire(victim.post)
            self._await_work(self.plan.kills + 1)
            self._await(lambda: all(self.done[kind] for kind in self._kinds()))
        finally:
            self._close()
        assert not self.failures

    @staticmethod
    def _kinds() -> tuple[str, ...]:
        return ("pushed", "followed", "long-snapshot", "forked", "as-it-was", "hydrated")

    def _posts(self) -> list[str]:
        posts = [f"teller-{number}" for number in range(self.plan.tellers)]
        posts += [f"branch-{number}" for number in range(self.plan.branches)]
        return [*posts, "courier-0", "courier-1", "auditor-0"]

    def _hire(self, post: str) -> None:
        """Start a process; one that replaces another has the same post and a new name."""
        self._hired += 1
        role = post.partition("-")[0]
        job = {
            "role": role,
            "name": f"{post}-{self._hired}",
            "seed": self.plan.seed,
            "data_dir": str(self.directory / post if role == "branch" else self.head_office),
            "remote": asdict(self.remote),
            "threads": self.plan.threads,
            "pause_seconds": self.plan.pause_seconds,
        }
        self._staff[post] = Employee(self, post, job)

    def _await_work(self, number: int) -> None:
        """Wait until so many parts of the work are done, so that kills fall into all kinds of it.

        Transfers alone would be too quick: most processes would be killed before they had begun.
        """
        transfers = number * self.plan.transfers // (self.plan.kills + 1)
        each = {"pushed": 2 * number, "as-it-was": number, "long-snapshot": number // 3}
        self._await(
            lambda: (
                len(self.paid) >= transfers
                and all(self.done[kind] >= count for kind, count in each.items())
            )
        )

    def _await(self, condition: Callable[[], object]) -> None:
        """Wait for news that fulfil a condition; a process that fails ends the run."""
        with self._news:
            met = self._news.wait_for(lambda: self.failures or condition(), _PATIENCE_SECONDS)
        assert met, f"no news for {_PATIENCE_SECONDS} s beyond {self.done}"
        assert not self.failures

    def _close(self) -> None:
        for employee in self._staff.values():
            employee.dismiss()
        for employee in self._staff.values():
            employee.join()


# What must be true afterwards -------------------------------------------------------------------


def prove_journal(bank: Bank, machine: Replica) -> list[str]:
    """What was acknowledged is in the journal once; what is there beside it was lost on the way."""
    connection = machine.connect()
    ledger.audit(connection)
    assert ledger.is_sound(connection)
    refs = ledger.journal(connection)
    assert not Counter(bank.paid) - Counter(refs), "acknowledged transfers are missing"
    # A kill between a commit and its acknowledgement leaves one such transfer a thread.
    assert len(refs) - len(bank.paid) <= bank.done["killed"] * bank.plan.threads
    return refs


def prove_every_lsn(bank: Bank, machine: Replica, refs: list[str]) -> int:
    """Each remote LSN opens as it was: a sound database with the first transfers of the journal.

    The first LSN has none, and each push has brought some. Of very many LSNs some are drawn.
    """
    newest = machine.engine.status("main").base_lsn
    last, proved = -1, 0
    drawn = random.Random(bank.plan.seed).sample(
        range(1, newest + 1), min(newest, bank.plan.lsns_proved_max)
    )
    for lsn in sorted({1, *drawn, newest}):
        connection = machine.connect(lsn=str(lsn))
        count = ledger.audit(connection)
        assert count > last if lsn > 1 else count == 0
        assert ledger.journal(connection) == refs[:count]
        assert ledger.is_sound(connection)
        connection.close()
        last = count
        proved += 1
    assert last == len(refs)
    return proved


def prove_forks(bank: Bank, machine: Replica, refs: list[str]) -> None:
    """Each fork is what the bank was once, and one transfer of its own."""
    for tag in bank.forks:
        connection = machine.connect(tag)
        ledger.audit(connection)
        assert ledger.is_sound(connection)
        *common, own = ledger.journal(connection)
        assert own == f"{tag}-0"
        assert common == refs[: len(common)]
        connection.close()


def prove(bank: Bank) -> None:
    """Prove the machines, the remote, its clones and the forks, one after another."""
    with Replica(bank.head_office, bank.remote) as office:
        office.engine.push("main")
        refs = prove_journal(bank, office)
        prove_forks(bank, office, refs)
        checksum = office.engine.audit("main").checksum
    for number in range(bank.plan.branches):
        with Replica(bank.branch(number), bank.remote) as branch:
            branch.engine.pull("main")
            branch.engine.hydrate("main")
            assert prove_journal(bank, branch) == refs
            assert branch.engine.audit("main").checksum == checksum
    with Replica(bank.directory / "clone", bank.remote) as clone:
        clone.engine.clone("main", "main")
        assert prove_journal(bank, clone) == refs
        bank.done["LSNs"] = clone.engine.status("main").base_lsn
        bank.done["LSNs proved"] = prove_every_lsn(bank, clone, refs)
        clone.engine.hydrate("main")
        assert clone.engine.audit("main").checksum == checksum


def run_bank(directory: Path, remote: RemoteConfig, plan: Plan) -> Bank:
    bank = Bank(directory, remote, plan)
    bank.open()
    bank.run()
    prove(bank)
    print(dict(bank.done))
    return bank


def test_money_and_transfers_survive_kills_everywhere(tmp_path: Path) -> None:
    remote = RemoteConfig(type="fs", root=str(tmp_path / "remote"))
    bank = run_bank(tmp_path, remote, Plan(transfers=1500, kills=12))
    assert bank.done["killed"] == 12


@contextlib.contextmanager
def s3_remote(seaweedfs) -> Iterator[RemoteConfig]:
    bucket = seaweedfs.fresh_bucket()
    with seaweedfs.identity():
        yield RemoteConfig(type="s3_compatible", bucket=bucket, endpoint=seaweedfs.url)


def deep_plan(*, pause_seconds: float = 0.0) -> Plan:
    transfers = int(os.environ.get("BANK_TRANSFERS", "20000"))
    return Plan(
        transfers, kills=transfers // 100, tellers=4, branches=3, pause_seconds=pause_seconds
    )


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_money_and_transfers_survive_many_kills_on_a_directory(tmp_path: Path) -> None:
    run_bank(tmp_path, RemoteConfig(type="fs", root=str(tmp_path / "remote")), deep_plan())


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_money_and_transfers_survive_many_kills_on_s3(tmp_path: Path, seaweedfs) -> None:
    with s3_remote(seaweedfs) as remote:
        run_bank(tmp_path, remote, deep_plan(pause_seconds=0.1))
