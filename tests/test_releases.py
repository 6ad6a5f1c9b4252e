"""The book of releases: roles, the log that only grows, who meets a candidate, and when it is taken back."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from palmette.cli import main
from palmette.deploy.bundle import Bundle, write_bundle
from palmette.errors import ReleaseError
from palmette.operate.releases import desk, registry
from palmette.operate.releases.book import Releases
from palmette.operate.releases.routing import chosen, position
from palmette.operate.releases.rules import RolloutRules, Trial
from palmette.sequential import evidence_above, highest
from palmette.store import open_store
from postgres import new_database

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
TASKS = {"pos": "sequence_labeling", "tone": "text_classification"}


def make_bundle(folder: Path, name: str, tasks: dict[str, str] | None = None) -> Bundle:
    """A bundle as the book sees it: nobody loads its graph."""
    files = {part: name.encode() for part in ("model.onnx", "tokenizer.json", "words.json", "tasks.json", "README.md")}
    return write_bundle(folder / name, files, about={"tasks": tasks or TASKS, "precision": "fp32"})


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    if request.param == "sqlite":
        engine = open_store(str(tmp_path / "store.db"))
    else:
        engine = open_store(new_database(request.getfixturevalue("postgres_url"), f"releases-{uuid.uuid4().hex}"))
    yield engine
    engine.dispose()


@pytest.fixture
def book(engine: sa.Engine) -> Releases:
    return Releases(engine, now=lambda: NOW)


def test_roles_follow_what_is_done(book: Releases, tmp_path: Path) -> None:
    one, two = (make_bundle(tmp_path, name) for name in ("one", "two"))
    with pytest.raises(ReleaseError, match="nothing is live"):
        book.release(two, mode="canary", share=0.1, by="anna")
    assert book.serve(one, by="server").live == one.digest
    assert book.serve(two, by="server").live == one.digest  # a restart with another bundle changes nothing
    state = book.release(two, mode="shadow", share=0.25, by="anna", why="new data")
    assert (state.candidate, state.mode, state.share) == (two.digest, "shadow", 0.25)
    assert book.release(two, mode="canary", share=0.5, by="anna").mode == "canary"
    with pytest.raises(ReleaseError, match="candidate already"):
        book.release(make_bundle(tmp_path, "three"), mode="canary", share=0.1, by="anna")
    with pytest.raises(ReleaseError, match="the candidate is"):
        book.promote(by="anna", candidate=one.digest)
    state = book.promote(by="anna", candidate=two.digest[:12])
    assert (state.live, state.previous, state.candidate) == (two.digest, one.digest, None)
    state = book.rollback(by="tom", why="callers complain")
    assert (state.live, state.previous) == (one.digest, None)
    with pytest.raises(ReleaseError, match="neither"):
        book.rollback(by="tom")  # it must not bring back what was just left
    assert book.rollback(by="tom", to=two.digest[:8]).live == two.digest
    assert [entry.action for entry in book.log()] == [
        "serve",
        "release",
        "release",
        "promote",
        "rollback",
        "rollback",
    ]
    assert [entry.who for entry in book.log(last=2)] == ["tom", "tom"]
    last = book.verify()
    assert last is not None
    assert last.state == book.state()
    assert last.at == NOW


def test_rollback_takes_a_candidate_back_first(book: Releases, tmp_path: Path) -> None:
    bundles = [make_bundle(tmp_path, name) for name in ("one", "two", "three")]
    book.serve(bundles[0], by="server")
    book.release(bundles[1], mode="canary", share=1, by="anna")
    book.promote(by="anna")
    book.release(bundles[2], mode="canary", share=0.1, by="anna")
    state = book.rollback(by="anna")
    assert (state.live, state.candidate, state.previous) == (bundles[1].digest, None, bundles[0].digest)
    assert book.rollback(by="anna").live == bundles[0].digest


def test_a_candidate_must_answer_what_is_answered_now(book: Releases, tmp_path: Path) -> None:
    book.serve(make_bundle(tmp_path, "one"), by="server")
    fewer = make_bundle(tmp_path, "fewer", {"pos": "text_classification"})
    with pytest.raises(ReleaseError, match="pos is text_classification, not sequence_labeling, lacks tone"):
        book.release(fewer, mode="shadow", share=0.1, by="anna")
    with pytest.raises(ReleaseError, match="lacks tone"):
        book.replace_live(fewer, by="anna", forced=False)
    assert book.release(fewer, mode="shadow", share=0.1, by="anna", forced=True).candidate == fewer.digest


def test_of_several_servers_that_find_the_same_one_writes_it_down(book: Releases, tmp_path: Path) -> None:
    book.serve(make_bundle(tmp_path, "one"), by="server")
    state = book.release(make_bundle(tmp_path, "two"), mode="canary", share=0.1, by="anna")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: book.demote(state.number, by=f"server {n}", why="errors: …"), range(16)))
    assert {end.candidate for end in found} == {None}
    assert [entry.action for entry in book.log()] == ["serve", "release", "demote"]
    # A judgement of an earlier state is none of the present one, even of the same bundle.
    again = book.release(make_bundle(tmp_path, "three"), mode="canary", share=0.1, by="anna")
    assert book.demote(state.number, by="server", why="late") == again


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE release_log SET why = 'nothing' WHERE number = 2",
        "DELETE FROM release_log WHERE number = 2",
        "DELETE FROM release_log",
    ],
)
def test_the_database_refuses_to_change_the_log(
    book: Releases, engine: sa.Engine, tmp_path: Path, statement: str
) -> None:
    book.serve(make_bundle(tmp_path, "one"), by="server")
    book.release(make_bundle(tmp_path, "two"), mode="canary", share=0.1, by="anna")
    before = book.log()
    others = ["INSERT OR REPLACE INTO release_log SELECT * FROM release_log WHERE number = 2"]
    if engine.dialect.name == "postgresql":
        others = ["TRUNCATE release_log"]
    for refused in (statement, *others):
        with engine.begin() as connection, pytest.raises(sa.exc.DBAPIError, match="only grows"):
            connection.exec_driver_sql(refused)
    assert book.log() == before


def test_what_was_changed_behind_the_triggers_shows(tmp_path: Path) -> None:
    bundles = [make_bundle(tmp_path, name) for name in ("one", "two")]
    kept: str | None = None
    for number, (spoil, found) in enumerate(
        (
            ("UPDATE release_log SET who = 'tom' WHERE number = 2", "entry 2 was changed"),
            ("DELETE FROM release_log WHERE number = 2", "entry 2 is missing"),
            ("UPDATE release_log SET state = replace(state, '0.25', '0.5') WHERE number = 2", "entry 2 was changed"),
            ("DELETE FROM release_log WHERE number = 3", "no entry with the hash"),
        )
    ):
        engine = open_store(str(tmp_path / f"{number}.db"))
        book = Releases(engine, now=lambda: NOW)
        book.serve(bundles[0], by="server")
        book.release(bundles[1], mode="canary", share=0.25, by="anna")
        book.promote(by="anna")
        last = book.verify()
        assert last is not None
        kept = last.hash
        with engine.begin() as connection:
            for trigger in ("update", "delete"):
                connection.exec_driver_sql(f"DROP TRIGGER release_log_no_{trigger}")
            connection.exec_driver_sql(spoil)
        with pytest.raises(ReleaseError, match=found):
            book.verify(known=kept)
        engine.dispose()


KEYS = st.text(max_size=20)
SHARES = st.floats(0, 1)


@given(KEYS, SHARES, SHARES)
def test_a_larger_share_only_adds(key: str, one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert 0 <= position(key, "digest") < 1
    assert not chosen(key, "digest", low) or chosen(key, "digest", high)
    assert chosen(key, "digest", low) == chosen(key, "digest", low)
    assert chosen(key, "digest", 1)
    assert not chosen(key, "digest", 0)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_share_is_met(share: float) -> None:
    keys = [f"user-{number}" for number in range(20_000)]
    met = {key for key in keys if chosen(key, "digest", share)}
    error = (share * (1 - share) / len(keys)) ** 0.5
    assert abs(len(met) / len(keys) - share) < 4 * error
    # Another candidate meets others.
    both = {key for key in met if chosen(key, "another", share)}
    assert abs(len(both) / len(met) - share) < 4 * (share * (1 - share) / len(met)) ** 0.5


def trial(**rules: Any) -> Trial:
    return Trial(RolloutRules(**rules), now=0)


def test_evidence_may_be_looked_at_after_every_value() -> None:
    rng = np.random.default_rng(0)
    passed = dict.fromkeys((0.01, 0.05, 0.2), 0)
    trials, alpha = 300, 0.05
    for limit in passed:
        for values in (rng.random((trials, 2000)) < limit).cumsum(axis=1):
            looks = [evidence_above(float(values[n - 1]), n, limit) for n in (*range(1, 50, 7), *range(50, 2001, 50))]
            passed[limit] += max(looks) > -np.log(alpha)
    assert max(passed.values()) <= alpha * trials
    # And it has power: twice the limit is found.
    assert evidence_above(200, 1000, 0.1) > -np.log(0.001)
    assert highest(0, 1000, alpha=0.01) < 0.02
    assert highest(5, 10, alpha=0.01) > 0.8


def test_a_faultless_candidate_stays_and_a_worse_one_goes() -> None:
    rng = np.random.default_rng(1)

    def run(*, errors: float, slower: float, difference: float, requests: int = 3000) -> str | None:
        found = trial()
        for number in range(requests):
            for side, often, failing, factor in (("live", 9, 0.002, 1.0), ("candidate", 1, errors, slower)):
                for _ in range(often):
                    if rng.random() < failing:
                        found.failed(side)  # type: ignore[arg-type]
                    else:
                        found.answered(side, factor * rng.lognormal(-4, 0.5))  # type: ignore[arg-type]
            found.compared({"ner": float(rng.random() < difference), "pos": 0.01})
            if number % 10 == 0 and (verdict := found.verdict(0)) is not None:
                return verdict.rule
        return None

    assert run(errors=0.002, slower=1, difference=0.05) is None
    assert run(errors=0.002, slower=1.2, difference=0.15) is None
    assert run(errors=0.002, slower=1.5, difference=0.2) is None  # just what the limits allow
    assert run(errors=0.05, slower=1, difference=0.05, requests=1000) == "errors"
    assert run(errors=0.002, slower=3, difference=0.05, requests=1000) == "latency"
    assert run(errors=0.002, slower=1, difference=0.4, requests=1000) == "disagreement"


def test_a_verdict_waits_for_enough_requests_and_says_what_it_saw() -> None:
    found = trial(least=30)
    for _ in range(29):
        found.failed("candidate")
    assert found.verdict(0) is None
    found.failed("candidate")
    verdict = found.verdict(0)
    assert verdict is not None
    assert (verdict.rule, "30 of 30 requests failed" in verdict.reason) == ("errors", True)
    late = trial(window=60, task_disagreement={"ner": 0.01})
    for _ in range(100):
        late.compared({"ner": 0.0})
    assert late.verdict(61) is None  # a new window: those 100 are forgotten
    for _ in range(60):
        late.compared({"ner": 0.2})
    verdict = late.verdict(62)
    assert verdict is not None
    assert verdict.reason == "ner: answers differ by 20.0% over 60 requests, more than 1.0%"


def palmette(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_commands_release_promote_roll_back_and_show(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    one, two = (make_bundle(tmp_path, name) for name in ("one", "two"))
    palmette("release", store, one.folder, "--mode", "live")
    report = tmp_path / "gate.json"

    def judged(new: str, old: str, verdict: str) -> None:
        report.write_text(json.dumps({"new": {"digest": new}, "old": {"digest": old}, "verdict": verdict}))

    for new, old, verdict, found in (
        (one.digest, one.digest, "passed", "is about the bundle"),
        (two.digest, one.digest, "undecided", "did not let"),
        (two.digest, "f" * 64, "passed", f"compares with ffffffffffff, but {one.digest[:12]} is live"),
    ):
        judged(new, old, verdict)
        refused = CliRunner().invoke(
            main, ["release", str(store), str(two.folder), "--mode", "canary", "--gate", str(report)]
        )
        assert refused.exit_code == 2
        assert found in refused.output
    judged(two.digest, "f" * 64, "passed")
    forced = ("release", store, two.folder, "--mode", "shadow", "--gate", report, "--force")
    palmette(*forced)
    palmette("rollback", store)
    judged(two.digest, one.digest, "passed")
    shown = palmette(
        "release", store, two.folder, "--mode", "canary", "--share", "0.2", "--gate", report, "--by", "anna"
    )
    assert f"candidate {two.digest[:12]}  canary, 20% of the traffic" in shown
    palmette("promote", store, "--why", "better on tweets")
    assert json.loads(palmette("releases", "show", store, "--json"))["state"]["live"] == two.digest
    palmette("rollback", store)
    log = palmette("releases", "log", store)
    assert "anna: gate: passed (report " in log
    assert "gate: passed against ffffffffffff, forced (report " in log
    assert "better on tweets" in log
    kept = palmette("releases", "verify", store).split()[-1]
    assert "6 entries" in palmette("releases", "verify", store, "--hash", kept)
    (two.folder / "README.md").write_text("changed")
    refused = CliRunner().invoke(main, ["release", str(store), str(two.folder), "--mode", "live"])
    assert (refused.exit_code, "was changed" in refused.output) == (2, True)


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # of MLflow's own store
def test_an_mlflow_registry_gives_bundles_and_learns_their_roles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny (palmette[mlflow])")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(mlflow.tracking._tracking_service.utils, "_tracking_uri", None, raising=False)
    client = mlflow.MlflowClient()
    client.create_experiment("palmette", artifact_location=str(tmp_path / "artifacts"))
    store = tmp_path / "store.db"
    bundles = [make_bundle(tmp_path, name) for name in ("one", "two")]
    references = [palmette("releases", "register", bundle.folder, "trunk").strip() for bundle in bundles]
    assert references == ["models:/trunk/1", "models:/trunk/2"]
    palmette("release", store, references[0], "--mode", "live", "--into", tmp_path / "kept")
    palmette("release", store, references[1], "--mode", "canary", "--into", tmp_path / "kept")

    def aliases() -> dict[str, str]:
        return {alias: str(number) for alias, number in client.get_registered_model("trunk").aliases.items()}

    assert aliases() == {"champion": "1", "candidate": "2"}
    palmette("promote", store)
    assert aliases() == {"champion": "2", "previous": "1"}
    assert client.get_model_version("trunk", "2").tags["palmette.role"] == "live"
    palmette("rollback", store)
    assert aliases() == {"champion": "1"}
    with desk.opened(str(store)) as book:
        kept = book.version(bundles[1].digest)
        assert (kept.source, Bundle.open(kept.path).digest) == (references[1], bundles[1].digest)
    with pytest.raises(ReleaseError, match="models:/trunk/9"):
        registry.fetch("models:/trunk/9", tmp_path / "kept")
    # Not what was registered.
    client.set_model_version_tag("trunk", "1", "palmette.digest", "0" * 64)
    with pytest.raises(ReleaseError, match="was registered"):
        registry.fetch("models:/trunk/1", tmp_path / "kept")
