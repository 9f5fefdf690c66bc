"""What reaches MLflow: everything once, whatever fails on the way."""

import json
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import pytest
from injection import PROCESSES, worker
from mlflow import MlflowClient
from tracked import expected, stored

from detr.errors import InputError
from experiments.folders.files import Folder, Journal
from experiments.results.reading.reader import open_reader
from experiments.schema import names
from experiments.schema.record import RecordLine
from experiments.schema.store import StoreError, load_store
from experiments.tracking import client, sync
from experiments.tracking.client import Tracker
from experiments.tracking.mirror import Uploader
from experiments.tracking.upload import Upload, left

NAN = float("nan")


def fill(directory, num_steps: int = 5) -> None:
    """What training would leave."""
    directory.begin()
    for step in range(1, num_steps + 1):
        place = {"step": step, "num_steps": num_steps, "epoch": step / 3, "samples": 2 * step, "seconds": 0.5 * step}
        values = {"train/loss": 10.0 / step, "train/class_error": NAN if step == 2 else 1.0, "train/lr": 1e-4}
        directory.records.append(RecordLine.stamped(**place, metrics=values))
    directory.records.append(
        RecordLine.stamped(**place, metrics={"val/AP": 0.25, "val/AP/a & b": 1e308, "val/loss": 2.0})
    )
    Journal(directory.path / names.SYSTEM).append(RecordLine.stamped(step=0, metrics={"system/cpu": 50.0}))
    (directory.path / names.PREDICTIONS).write_text("[]")
    (directory.path / "best.safetensors").write_text("weights")
    (directory.path / names.PREDICTIONS_EMA).write_text("[]")
    (directory.path / "best_ema.safetensors").write_text("average")
    directory.update(state="finished")
    Folder(directory.path.parents[1]).update(state="finished")


def check(directory, store_file: Path) -> None:
    """MLflow has the run and its ablation, complete and once."""
    store = load_store(store_file)
    client = MlflowClient(store.tracking_uri)
    assert stored(store_file) == {"ablation": Counter(), "arm,seed=0": expected(directory)}
    assert set(expected(directory).values()) == {1}
    run, parent = client.search_runs(["1"], order_by=["attributes.run_name DESC"])
    assert (run.info.status, parent.info.status) == ("FINISHED", "FINISHED")
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (run.data.tags[names.ARM], run.data.params["optim.lr"]) == ("arm", "0.001")
    files = {one.path for one in client.list_artifacts(run.info.run_id)}
    assert {"config.json", "records.jsonl", "predictions.json", "checkpoints"} <= files
    for path in (directory.path, directory.path.parents[1]):
        assert left(path) == ""


def send(directory, tracker: Tracker) -> None:
    for path in (directory.path.parents[1], directory.path):
        Upload(path, tracker).send()


def test_everything_is_sent_once(make_run, somewhere, tmp_path):
    directory = make_run(tmp_path / "runs")
    fill(directory)
    assert left(directory.path) == "7 records, 6 files, its state"
    for _ in range(2):
        send(directory, Tracker(load_store(somewhere)))
    check(directory, somewhere)
    store = load_store(somewhere)
    sent = {path.name for path in Path(store.artifact_root).rglob("*") if path.is_file()}
    assert {"best.safetensors", "best_ema.safetensors", "predictions.json", "predictions_ema.json"} <= sent


def test_what_mlflow_says_of_an_address_shows_no_password(make_run, tmp_path, monkeypatch, capsys):
    """MLflow's own message has the address of a store that it does not know, as it was given."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "foo://me:s3cret@127.0.0.1:9/x")
    directory, store = make_run(tmp_path / "runs"), load_store()
    directory.begin()
    with Uploader(store, [directory.path]) as uploader:
        pass
    with pytest.raises(StoreError) as refusal:
        open_reader(store)
    assert sync.main([str(tmp_path / "runs")]) == 1
    for text in (uploader.fault, str(refusal.value), capsys.readouterr().err):
        assert "foo://me@127.0.0.1:9/x" in text and "s3cret" not in text


def test_a_damaged_line_is_counted_and_named_when_it_would_be_sent(make_run, somewhere, tmp_path, capsys):
    directory = make_run(tmp_path / "runs")
    fill(directory)
    records, size = directory.records, directory.records.size
    with records.path.open("ab") as file:
        file.write(b"garbage\n" + b"half a li")
    assert (records.count(), records.count(size)) == (7, 1)
    assert left(directory.path) == "8 records, 6 files, its state"
    with pytest.raises(InputError, match=f"no record at byte {size}"):
        send(directory, Tracker(load_store(somewhere)))
    assert sync.sync(load_store(somewhere), [tmp_path / "runs"]) == 1
    assert f"records.jsonl: no record at byte {size}" in capsys.readouterr().out


@pytest.mark.parametrize("done", [True, False], ids=["reply lost", "request lost"])
def test_a_call_that_fails_at_any_point_leaves_no_gap_and_no_double(make_run, somewhere, tmp_path, monkeypatch, done):
    """Every call in turn fails once: before it does anything, or after, when nothing is noted of it yet. As good as a
    kill at that point, since the next attempt knows nothing but the files.
    """
    directory = make_run(tmp_path / "runs")
    fill(directory)
    failed = set()

    def fragile(name: str):
        original = getattr(MlflowClient, name)

        def call(self, *arguments, **named):
            key = (name, len([one for one in failed if one[0] == name]), str(arguments)[:80])
            if done or key in failed or len(failed) > 60:
                result = original(self, *arguments, **named)
            if key not in failed and len(failed) <= 60:
                failed.add(key)
                raise ConnectionError(f"{name} was lost")
            return result

        return call

    for name in ("create_experiment", "create_run", "log_batch", "log_artifact", "update_run", "set_terminated"):
        monkeypatch.setattr(MlflowClient, name, fragile(name))
    attempts = 0
    tracker = Tracker(load_store(somewhere))
    while left(directory.path) or left(directory.path.parents[1]):
        attempts += 1
        try:
            send(directory, tracker)
        except ConnectionError:
            continue
    assert attempts > 12
    check(directory, somewhere)


def test_records_are_sent_in_batches_on_their_borders(make_run, somewhere, tmp_path, monkeypatch):
    """MLflow takes 1000 values at a time; a record of a thousand classes is split, and none is noted by halves."""
    directory = make_run(tmp_path / "runs")
    directory.begin()
    for step in range(1, 4):
        metrics = {f"val/AP/class {i}": 0.5 for i in range(1100)}
        directory.records.append(RecordLine.stamped(step=step, metrics=metrics))
    sizes, original = [], MlflowClient.log_batch
    monkeypatch.setattr(
        MlflowClient, "log_batch", lambda *a, metrics=(), **k: sizes.append(len(metrics)) or original(*a, metrics, **k)
    )
    send(directory, Tracker(load_store(somewhere)))
    assert [n for n in sizes if n] == [1000, 100] * 3
    assert stored(somewhere)["arm,seed=0"] == expected(directory)


def test_of_a_long_training_500_steps_are_sent_and_all_that_is_rare():
    def line(step: int, num_steps: int = 4500, **metrics: float) -> RecordLine:
        values = {key.replace("__", "/"): value for key, value in metrics.items()}
        return RecordLine(5.0, step, values, num_steps=num_steps, epoch=0.5, samples=8, seconds=1.0)

    def sent(lines: list[RecordLine]) -> list[int]:
        return [m.step for one in lines for m in client.points(one) if m.key == "train/loss"]

    lines = [line(step, train__loss=1.0) for step in range(1, 4501)]
    lines[402] = line(403, train__loss=1.0, diagnostics__update_ratio_main=0.1)
    evaluations = [line(step, val__loss=1.0) for step in (451, 902)]
    assert sent(lines) == sorted({1, 403, *range(9, 4501, 9)})
    assert [m.step for one in evaluations for m in client.points(one)] == [451, 902]
    assert [m.key for m in client.points(lines[402])].count("diagnostics/update_ratio_main") == 1
    assert {m.step for m in client.points(line(4501, 4501, train__loss=1.0))} == {4501}
    odd = sent([line(step, 750, train__loss=1.0) for step in range(1, 751)])
    assert len(odd) == 501 and {after - before for before, after in pairwise(odd)} == {1, 2}  # 500, and the first
    assert sent([replace(one, num_steps=100) for one in lines[:100]]) == list(range(1, 101))


def test_a_run_without_a_tracker_finishes_and_is_sent_later(
    make_run, nowhere, somewhere, tmp_path, monkeypatch, capsys
):
    directory = make_run(tmp_path / "runs")
    assert worker(directory.path, nowhere) == 0
    assert directory.status["state"] == "finished"
    log = (directory.path / "worker.log").read_text()
    assert "MLflow lacks 6 records" in log and "detr-sync sends them" in log and "Traceback" not in log
    monkeypatch.setenv("DETR_STORE", str(nowhere))
    assert sync.main([]) == 1
    assert "http://127.0.0.1:9 cannot be reached" in capsys.readouterr().err
    monkeypatch.setenv("DETR_STORE", str(somewhere))
    Folder(directory.path.parents[1]).update(state="finished")
    assert sync.main([]) == 0
    assert "sent 6 records, 7 files, its state" in capsys.readouterr().out
    check(directory, somewhere)
    assert sync.main([]) == 0
    assert capsys.readouterr().out == ""


def test_training_does_not_wait_for_a_server_that_hangs(make_run, nowhere, tmp_path):
    """The server replies to nothing until all records are written."""
    directory = make_run(tmp_path / "runs")
    asked, released = threading.Event(), threading.Event()

    class Hanging(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.set()
            released.wait(300)
            self.send_error(503)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hanging) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        nowhere.write_text(nowhere.read_text().replace("127.0.0.1:9", f"127.0.0.1:{server.server_port}"))
        run = threading.Thread(
            target=lambda: codes.append(worker(directory.path, nowhere, MLFLOW_HTTP_REQUEST_TIMEOUT="300"))
        )
        codes: list[int] = []
        run.start()
        assert asked.wait(120)
        while directory.status["state"] != "finished" and run.is_alive():
            run.join(0.05)
        assert not released.is_set() and len(directory.records.read()) == 6
        released.set()
        run.join()
        server.shutdown()
    assert codes == [0]


def test_the_uploader_goes_on_when_the_tracker_is_back(make_run, somewhere, tmp_path, monkeypatch):
    directory = make_run(tmp_path / "runs")
    fill(directory)
    away, original = [True], Upload.send

    def send_or_not(self: Upload) -> None:
        if away[0]:
            raise ConnectionError("refused")
        original(self)

    monkeypatch.setattr(Upload, "send", send_or_not)
    uploader = Uploader(load_store(somewhere), [directory.path.parents[1], directory.path])
    uploader.finish()
    assert uploader.fault == "ConnectionError: refused"
    away[0] = False
    uploader.finish()
    assert uploader.fault == ""
    check(directory, somewhere)


def test_a_tracker_that_is_away_is_asked_again_after_a_while_and_not_at_once(somewhere, tmp_path, monkeypatch):
    attempts = []
    monkeypatch.setattr("experiments.tracking.mirror.Tracker", lambda store: attempts.append(store) or 1 / 0)
    with Uploader(load_store(somewhere), [tmp_path]) as uploader:
        assert not uploader.ended.wait(1)
        assert len(attempts) == 1 and uploader.fault.startswith("ZeroDivisionError")


def test_a_store_that_lost_everything_gets_it_again(make_run, somewhere, tmp_path):
    directory = make_run(tmp_path / "runs")
    fill(directory)
    send(directory, Tracker(load_store(somewhere)))
    client = MlflowClient(load_store(somewhere).tracking_uri)
    for run in client.search_runs(["1"]):
        client.delete_run(run.info.run_id)
    send(directory, Tracker(load_store(somewhere)))
    check(directory, somewhere)


def test_lines_that_a_power_failure_took_are_not_sent_twice(make_run, somewhere, tmp_path):
    """They come again, with other times and wall-clock values, and MLflow has them already."""
    directory = make_run(tmp_path / "runs")
    fill(directory)
    send(directory, Tracker(load_store(somewhere)))
    content = directory.records.path.read_bytes()
    directory.records.path.write_bytes(b"".join(content.splitlines(keepends=True)[:2]))
    send(directory, Tracker(load_store(somewhere)))
    (directory.path / names.SYSTEM).unlink()
    fill_rest = [json.loads(line) for line in content.splitlines()[2:]]
    for line in fill_rest:
        directory.records.append(RecordLine.stamped(**{key: line[key] for key in line if key != "time"}))
    send(directory, Tracker(load_store(somewhere)))
    counts = stored(somewhere)["arm,seed=0"]
    assert set(counts.values()) == {1} and set(expected(directory)) <= set(counts)


def test_nothing_outside_the_folder_is_sent(make_run, somewhere, tmp_path):
    """A crafted run: files that are links, and a parent that is not its own."""
    directory = make_run(tmp_path / "runs")
    fill(directory)
    secret = tmp_path / "secret"
    secret.write_text("secret")
    for name in (names.PREDICTIONS, "best.safetensors"):
        (directory.path / name).unlink()
        (directory.path / name).symlink_to(secret)
    (directory.path / names.CHECKPOINTS).symlink_to(tmp_path)
    send(directory, Tracker(load_store(somewhere)))
    artifacts = Path(load_store(somewhere).artifact_root)
    assert not [path for path in artifacts.rglob("*") if path.is_file() and path.read_text() == "secret"]
    tracked = json.loads((directory.path / "tracked.json").read_text())
    for parent in ("../../..", ".", "/", "../other"):
        (directory.path / "tracked.json").write_text(json.dumps(tracked | {"parent": parent}))
        with pytest.raises(InputError, match=r"tracked\.json"):
            Upload(directory.path, Tracker(load_store(somewhere))).send()


# Many at once


def _upload(folder: str, store_file: str, barrier) -> None:
    barrier.wait()
    store = load_store(Path(store_file))
    with Uploader(store, [Path(folder)]) as uploader:
        pass
    for _ in range(5):  # what others were at is sent by now
        if left(Path(folder)):
            uploader.finish()


def test_eight_processes_fill_an_empty_store_at_once(make_run, tmp_path):
    """From no database at all: no first use fails, no row is lost or doubled, and there is one ablation."""
    store_file = tmp_path / "mlflow.yaml"
    store_file.write_text((Path(__file__).parents[3] / "mlflow.yaml").read_text())
    directories = [make_run(tmp_path / "runs", f"arm{i}") for i in range(8)]
    for directory in directories:
        fill(directory, num_steps=40)
    barrier = PROCESSES.Barrier(8)
    processes = [
        PROCESSES.Process(target=_upload, args=(str(directory.path), str(store_file), barrier))
        for directory in directories
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * 8
    runs = stored(store_file)
    assert runs.pop("ablation") == Counter()
    assert runs == {f"arm{i},seed=0": expected(directory) for i, directory in enumerate(directories)}
