"""Machines that need the same compiled model at once: one compiles, the others wait. The S3 is moto's server, over HTTP."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from mllama_demo.checkpoint.compilation import job as compile_job
from mllama_demo.checkpoint.compilation import lease as module
from mllama_demo.checkpoint.compilation.lease import Lease
from mllama_demo.checkpoint.compilation.shared_artifacts import SharedArtifacts
from mllama_demo.errors import ConfigError
from tests.support.shared_models import URL, compile_on, keys, made
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]
KEY = "llama/abc/compiling.json"


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 0.02)
    monkeypatch.setattr(module, "RENEW_S", 0.02)


@pytest.fixture
def machine(s3):
    """machine(): the lease as another machine sees it. All are given back at the end."""
    leases: list[Lease] = []

    def machine() -> Lease:
        leases.append(Lease(SharedArtifacts(URL), "abc"))
        return leases[-1]

    yield machine
    for lease in leases:
        lease.release()


def content(s3: Any, key: str = KEY) -> dict[str, Any]:
    return json.loads(s3.get_object(Bucket="models", Key=key)["Body"].read())


def test_one_of_many_machines_gets_the_lease_and_the_next_one_after_it_is_given_back(s3, machine):
    machines = [machine() for _ in range(8)]
    got: list[Lease] = []
    start = threading.Barrier(8)

    def ask(lease: Lease) -> None:
        start.wait()
        if lease.acquire():
            got.append(lease)

    threads = [threading.Thread(target=ask, args=(lease,)) for lease in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    other = next(lease for lease in machines if lease is not got[0])
    assert not other.acquire()
    assert other.held_elsewhere()
    got[0].release()
    assert "released" in content(s3)
    assert not other.held_elsewhere()
    assert other.acquire()


def test_a_lease_that_is_renewed_is_not_taken_over(s3, machine, monkeypatch):
    now = 0.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    holder, other = machine(), machine()
    assert holder.acquire()
    for _ in range(3):
        assert not other.acquire()
        before = content(s3)["renewals"]
        wait_until(lambda before=before: content(s3)["renewals"] > before, "it is renewed", 60)
        now += module.EXPIRY_S - 1


def test_a_lease_that_is_not_renewed_is_taken_over_by_one_machine_and_its_holder_learns_it(s3, machine, monkeypatch, caplog):
    monkeypatch.setattr(module, "RENEW_S", 3600.0)  # as that of a machine that was stopped
    holder, second, third = machine(), machine(), machine()
    assert holder.acquire()
    assert not second.acquire(), "it is not known for how long it was not renewed"
    assert not third.acquire()
    monkeypatch.setattr(module, "EXPIRY_S", 0.0)
    monkeypatch.setattr(module, "RENEW_S", 0.02)
    assert second.acquire()
    monkeypatch.setattr(module, "EXPIRY_S", 30.0)
    assert not third.acquire(), "the new lease is another one"
    assert content(s3)["holder"] == second._holder
    holder._renew()  # as when it wakes up
    assert "another machine took over the lease" in caplog.text
    holder.release()
    assert content(s3)["holder"] == second._holder, "only the holder gives a lease back"


def test_a_holder_that_stood_still_leaves_the_lease_of_the_machine_that_took_over(s3, machine, monkeypatch):
    monkeypatch.setattr(module, "RENEW_S", 3600.0)
    holder, second = machine(), machine()
    assert holder.acquire()
    monkeypatch.setattr(module, "EXPIRY_S", 0.0)
    assert second.acquire()
    holder.release()  # before its next renewal
    assert content(s3)["holder"] == second._holder


def test_a_lease_that_is_taken_over_while_its_holder_gives_it_back_is_that_of_the_other_machine(s3, machine, monkeypatch):
    monkeypatch.setattr(module, "RENEW_S", 3600.0)
    holder, second, third = machine(), machine(), machine()
    assert holder.acquire()
    monkeypatch.setattr(module, "EXPIRY_S", 0.0)
    read = holder._shared.read

    def slow(name: str) -> tuple[bytes, str] | None:
        """Between the look and the write of the holder, the second machine takes the lease over."""
        found = read(name)
        assert second.acquire()
        return found

    monkeypatch.setattr(holder._shared, "read", slow)
    holder.release()
    monkeypatch.setattr(module, "EXPIRY_S", 150.0)
    assert content(s3)["holder"] == second._holder
    assert third.held_elsewhere()
    assert not third.acquire()


def test_an_outage_of_s3_in_which_nobody_could_renew_does_not_count_as_the_end_of_the_holder(s3, machine, monkeypatch):
    now = 0.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(module, "RENEW_S", 30.0)  # of which the holder sees none in this test
    holder, other = machine(), machine()
    assert holder.acquire()
    assert not other.acquire()
    now += 2 * module.EXPIRY_S
    assert not other.acquire(), "the holder has had no time to renew it after the outage"
    for _ in range(4):
        now += module.RENEW_S
        assert other.acquire() == (now >= 2 * module.EXPIRY_S + module.EXPIRY_S - module.RENEW_S)
    assert content(s3)["holder"] == other._holder


def test_a_lease_whose_last_renewal_was_answered_to_nobody_is_given_back(s3, machine, monkeypatch):
    monkeypatch.setattr(module, "RENEW_S", 3600.0)
    lease = machine()
    assert lease.acquire()
    assert lease._write(replaces=lease._etag)  # its ETag is not kept
    lease.release()
    assert "released" in content(s3)


def test_a_lease_is_given_back_when_s3_fails_right_after_it_was_taken(s3, instance, monkeypatch, capsys):
    has, asked = SharedArtifacts.has, []

    def fails_after_the_first_time(shared: SharedArtifacts, fingerprint: str) -> bool:
        asked.append(fingerprint)
        if len(asked) > 1:
            raise ConfigError("no connection")
        return has(shared, fingerprint)

    monkeypatch.setattr(SharedArtifacts, "has", fails_after_the_first_time)
    assert compile_on(instance("first")) == 2
    assert "no connection" in capsys.readouterr().err
    assert "released" in content(s3, *keys(s3))


def test_two_machines_that_take_over_at_once_do_not_both_get_it(s3, machine, monkeypatch):
    monkeypatch.setattr(module, "RENEW_S", 3600.0)
    holder, second, third = machine(), machine(), machine()
    assert holder.acquire()
    monkeypatch.setattr(module, "EXPIRY_S", 0.0)
    write = third._shared.write

    def late(*arguments: Any) -> str | None:
        """Between the look and the write of the third machine, the second one takes the lease over."""
        assert second.acquire()
        return write(*arguments)

    monkeypatch.setattr(third._shared, "write", late)
    assert not third.acquire()
    assert content(s3)["holder"] == second._holder


def test_a_write_whose_answer_was_lost_counts(s3, machine, monkeypatch):
    lease = machine()
    write = lease._shared.write

    def repeated(*arguments: Any) -> str | None:
        write(*arguments)
        return write(*arguments)  # as boto3 does after a connection that broke

    monkeypatch.setattr(lease._shared, "write", repeated)
    assert lease.acquire()
    before = content(s3)["renewals"]
    wait_until(lambda: content(s3)["renewals"] >= before + 3, "it is renewed all the same", 60)


def test_an_outage_of_s3_ends_neither_the_lease_nor_the_compilation(s3, machine, monkeypatch, caplog):
    lease = machine()
    assert lease.acquire()
    write = lease._shared.write
    failed = threading.Event()

    def fails(*arguments: Any) -> str | None:
        failed.set()
        raise ConfigError("no connection")

    monkeypatch.setattr(lease._shared, "write", fails)
    assert failed.wait(60)
    monkeypatch.setattr(lease._shared, "write", write)
    before = content(s3)["renewals"]
    wait_until(lambda: content(s3)["renewals"] > before, "it is renewed again", 60)
    assert "could not be renewed: no connection" in caplog.text


@pytest.fixture
def compiling(monkeypatch):
    """A compilation of the first machine stops until `compiling.go_on` is set. compiling.count: how many were begun."""

    class Compiling:
        begun, go_on, count, fails = threading.Event(), threading.Event(), 0, False

    run = compile_job.run

    def slow(*arguments: Any) -> None:
        Compiling.count += 1
        if Compiling.count == 1:
            Compiling.begun.set()
            assert Compiling.go_on.wait(60)
            if Compiling.fails:
                raise ConfigError("The compiler failed.")
        run(*arguments)

    monkeypatch.setattr(compile_job, "run", slow)
    yield Compiling
    Compiling.go_on.set()


def started_one_after_the_other(first, second, compiling) -> tuple[threading.Thread, threading.Thread, dict[str, int]]:
    """Two machines, of which the second starts while the first one compiles, and the exit codes of those that have ended."""
    codes: dict[str, int] = {}
    one = threading.Thread(target=lambda: codes.update(first=compile_on(first)))
    one.start()
    assert compiling.begun.wait(60)
    two = threading.Thread(target=lambda: codes.update(second=compile_on(second)))
    two.start()
    return one, two, codes


def test_of_two_machines_that_start_on_an_empty_bucket_one_compiles_and_the_other_fetches(s3, instance, compiling, capfd):
    first, second = instance("first"), instance("second")
    one, two, codes = started_one_after_the_other(first, second, compiling)
    out = ""

    def waits() -> bool:
        nonlocal out
        out += capfd.readouterr().out
        return "Another machine compiles the same model" in out

    wait_until(waits, "the second machine says that it waits", 60)
    compiling.go_on.set()
    one.join(60)
    two.join(60)
    assert codes == {"first": 0, "second": 0}
    assert compiling.count == 1
    assert "Fetching the compiled model" in out + capfd.readouterr().out
    [folder], [fetched] = made(first), made(second)
    assert folder.name == fetched.name
    assert "released" in content(s3, f"llama/{folder.name}/compiling.json")


def test_a_machine_whose_compilation_fails_leaves_the_next_one_to_compile(s3, instance, compiling, capfd):
    compiling.fails = True
    first, second = instance("first"), instance("second")
    one, two, codes = started_one_after_the_other(first, second, compiling)
    wait_until(lambda: "Another machine compiles" in capfd.readouterr().out, "the second machine waits", 60)
    compiling.go_on.set()
    one.join(60)
    two.join(60)
    assert codes == {"first": 2, "second": 0}
    assert made(first) == []
    assert len(made(second)) == 1


def test_a_compiler_that_was_killed_does_not_hold_others_up(s3, instance, monkeypatch, capsys):
    first = instance("first")
    assert compile_on(first) == 0
    [folder] = made(first)
    for key in keys(s3):
        s3.delete_object(Bucket="models", Key=key)
    s3.put_object(Bucket="models", Key=f"llama/{folder.name}/compiling.json", Body=b'{"holder": "killed", "renewals": 7}')
    monkeypatch.setattr(module, "EXPIRY_S", 0.3)
    capsys.readouterr()
    assert compile_on(instance("second")) == 0
    out = capsys.readouterr().out
    assert "Another machine compiles the same model" in out
    assert "Compiling" in out
