"""What goes wrong around a run: killed processes, Ctrl-C and SIGTERM, damaged files, full disks,
two runs in a folder, too little memory, containers. Each ends soon, in a line that says what to do.

As a script this file has processes at work that never end:  python -m tests.test_mishaps KIND
"""
import errno
import json
import math
import multiprocessing
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from engine import machine, settings, workers
import torch

import data
import train
from engine.checkpoints import (checkpoint_paths, finished, load_checkpoint, load_weights,
                                replacing, resume_points, save_checkpoint)
from engine.processes import plainly, run_in_processes
from tests.helpers import HOME
from tests.test_processes import SIZES, random_latents

unix = pytest.mark.skipif(os.name == "nt", reason="signals of Unix")


# ------------------------------------------------------------------- what runs in other processes
class Source:
    """Clips that are numbers. It counts how often it is pickled."""

    pickled = 0

    def __getstate__(self):
        Source.pickled += 1
        return dict(factor=2)


def double(source, number):
    return source.factor * number


def killed_at_five(source, number):
    if number == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def stays_at_five(source, number):
    return stay() if number == 5 else number


def stay():
    """Say so, and wait for ever. (signal.pause misses a signal that comes just before it.)"""
    os.write(1, b"ready\n")
    while True:
        threading.Event().wait(0.1)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def script(kind: str) -> None:
    if kind == "workers":
        list(workers.parallel(stays_at_five, None, range(100), 2, "clips"))
    else:
        run_in_processes([(stay,), (stay,)])


@pytest.fixture(autouse=True)
def sigterm_afterwards():
    """`plainly` sets what SIGTERM does, for the rest of a process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def started():
    """A function that starts a command in a process group of its own. What hangs is killed."""
    running = []

    def start(*words):
        process = subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=HOME, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
            # A shell lets what runs in its background ignore Ctrl-C.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
        watchdog = threading.Timer(100, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.start()
        running.append((process, watchdog))
        return process

    yield start
    for process, watchdog in running:
        watchdog.cancel()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# ---------------------------------------------------------------------------------------- workers
def test_results_come_in_order_and_the_source_is_pickled_once():
    Source.pickled = 0
    results = workers.parallel(double, Source(), range(100), 2, "numbers")
    assert [next(results) for _ in range(60)] == list(range(0, 120, 2))
    assert Source.pickled == 1 and len(multiprocessing.active_children()) == 2
    results.close()
    assert not multiprocessing.active_children()


@unix
def test_a_worker_is_killed():
    found = []
    with pytest.raises(RuntimeError, match="a worker process .at clip 5. was killed .SIGKILL., "
                                           "probably for lack of memory"):
        for number in workers.parallel(killed_at_five, None, range(100), 2, "numbers"):
            found.append(number)
    assert found == list(range(len(found))) and len(found) <= 5
    assert not multiprocessing.active_children()


class Pipe(list):
    """The end of a pipe that nobody reads."""

    send = list.append
    recv = list.pop


def idle_worker() -> workers.Worker:
    worker = workers.Worker.__new__(workers.Worker)
    worker.pipe = Pipe()
    worker.tasks = []
    return worker


def test_what_a_function_raises_in_a_worker_is_raised_here():
    worker = idle_worker()
    worker.give(0)
    answer = workers.outcome(lambda source, number: source[number], [], worker.pipe.pop())
    worker.pipe.append(pickle.loads(pickle.dumps(answer)))
    with pytest.raises(IndexError, match="out of range") as found:
        worker.take()
    assert "test_mishaps.py" in str(found.value.__cause__)


def test_few_clips_are_in_flight_and_tasks_are_small():
    crew = [idle_worker() for _ in range(3)]
    # All three are busy, and nothing more is handed out until one has an answer.
    assert workers.hand_out(crew, range(100)) == 3 * workers.AT_ONCE == 6
    assert workers.hand_out(crew, range(6, 100)) == 0
    assert sorted(number for worker in crew for number in worker.pipe) == list(range(6))
    assert all(len(pickle.dumps(task)) < 10_000 for worker in crew for task in worker.pipe)
    # The end is not passed, however many wait for work.
    crew[0].tasks.clear()
    assert workers.hand_out(crew, range(6, 7)) == 1
    # Numbers need not follow upon each other.
    assert workers.hand_out(crew, [40, 17]) == 1 and crew[0].pipe[-1] == 40


@unix
@pytest.mark.parametrize("kind", ["workers", "processes"])
def test_ctrl_c_ends_all(kind, started):
    """As the terminal sends it, to all processes; none of them says a word but the first."""
    process = started("-m", "tests.test_mishaps", kind)
    assert process.stdout.readline() == b"ready\n"
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130
    assert b"stopped" in said and b"Traceback" not in said


@unix
def test_a_killed_process_ends_the_others():
    with pytest.raises(RuntimeError, match="a process of this run was killed .SIGKILL., probably"):
        run_in_processes([(stay,), (die,)])
    assert not multiprocessing.active_children()


# ---------------------------------------------------------------------------------------- signals
def talker_config(out: Path, *options: str) -> train.Config:
    return train.parse_config([*SIZES, f"--out_dir={out}", "--log_every=4", *options])


@unix
def test_sigterm_saves_and_the_same_command_resumes(tmp_path, monkeypatch, capfd):
    """It comes in the second step, two steps before a line of the log."""
    cpu = torch.device("cpu")
    train.train_talker(talker_config(random_latents(tmp_path / "whole")), cpu, torch.float32)
    config = talker_config(random_latents(tmp_path / "ended"))
    clip = train.TrainingRun.clip_gradients

    def clip_and_end(run, step):
        clip(run, step)
        if step == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stop:
        patch.setattr(train.TrainingRun, "clip_gradients", clip_and_end)
        patch.setattr(sys, "argv", ["train.py"])
        plainly(train.train_talker, config, cpu, torch.float32)
    assert stop.value.code == 143
    assert "the same command resumes" in capfd.readouterr().err
    assert load_checkpoint(tmp_path / "ended", "talker")["step"] == 2

    train.train_talker(config, cpu, torch.float32)
    whole, resumed = (load_checkpoint(tmp_path / name, "talker") for name in ("whole", "ended"))
    for part in ("model", "optimizers", "order"):
        torch.testing.assert_close(whole[part], resumed[part], rtol=0, atol=0)


@unix
@pytest.mark.skipif(machine.cores() < 2, reason="with one core stages train one after the other")
def test_sigterm_beside_another_run(tmp_path, started):
    """Two stages train side by side. A second run in the folder is refused; SIGTERM to the first
    process saves both stages."""
    command = ["train.py", "--config=tiny", f"--out_dir={tmp_path}", "--audio_steps=100000",
               "--motion_steps=100000", "--device=cpu"]
    process = started(*command)
    said = b""
    # Both bars show a loss: both loops are on their way.
    while not all(re.search(bar, said) for bar in (rb"audio:[^\r]*loss", rb"motion:[^\r]*loss")):
        more = os.read(process.stderr.fileno(), 4096)
        assert more, said.decode()
        said += more
    second = subprocess.run([sys.executable, *command], cwd=HOME, capture_output=True, text=True)
    assert second.returncode == 2
    assert second.stderr == (f"train.py: another run is at work in {tmp_path}: wait until it is "
                             "finished, or choose another --out_dir\n")

    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143
    assert said.count(b"the same command resumes") == 1 and b"Traceback" not in said
    for stage in ("audio", "motion"):
        assert load_checkpoint(tmp_path, stage)["step"] > 0
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("error, code, words", [
    (ValueError("no such preset"), 2, "no such preset"),
    (FileNotFoundError(2, "No such file", "a.mp4"), 2, "a.mp4: No such file"),
    (OSError(errno.ENOSPC, "talker.pt can't be written: disk full"), 1, "disk full"),
    (RuntimeError("the gradient is not finite"), 1, "not finite"),
    (MemoryError("3 GB"), 1, "not enough memory: 3 GB")])
def test_exit_codes(error, code, words, capsys):
    def fail():
        raise error

    with pytest.raises(SystemExit) as stop:
        plainly(fail)
    said = capsys.readouterr().err
    assert stop.value.code == code
    assert words in said and said.count("\n") == 1 and "Errno" not in said


# ------------------------------------------------------------------------------------ checkpoints
class Code:
    def __reduce__(self):
        return os.mkdir, ("never",)


def one_line(found) -> str:
    words = str(found.value)
    assert "\n" not in words and "weights_only" not in words, words
    return words


@pytest.mark.parametrize("content, message", [
    (b"", "is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "git lfs pull"),
    (b"junk", "is damaged, or no checkpoint"),
    (b"PK\x03\x04" + bytes(100), "is damaged, or no checkpoint"),
    ({"model": Code()}, "holds code .*mkdir"),
    ([1, 2], "no weights named 'model'"), ({"step": 1}, "no weights named 'model'")])
def test_a_file_that_is_no_checkpoint(tmp_path, content, message):
    path, _ = checkpoint_paths(tmp_path, "audio")
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    for read in (load_checkpoint, finished):
        with pytest.raises(ValueError, match=message) as found:
            read(tmp_path, "audio")
        assert one_line(found).startswith(f"{path} ") and "or delete it" in str(found.value)


def test_a_checkpoint_of_which_half_is_missing(tmp_path):
    save_checkpoint(tmp_path, "audio", dict(model={"x": torch.randn(10000)}, done=True))
    path, _ = checkpoint_paths(tmp_path, "audio")
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(ValueError, match="is damaged") as found:
        load_checkpoint(tmp_path, "audio")
    one_line(found)


@pytest.mark.parametrize("change, message", [
    (lambda weights: weights.popitem(), "Missing key"),
    (lambda weights: weights.update(more=torch.ones(1)), "Unexpected key.*more"),
    (lambda weights: weights.update({next(iter(weights)): torch.ones(1)}), "size mismatch")])
def test_weights_of_another_model(tmp_path, change, message):
    model = torch.nn.Linear(3, 4)
    weights = dict(model.state_dict())
    change(weights)
    with pytest.raises(ValueError, match=f"does not fit the settings.*{message}") as found:
        load_weights(model, dict(model=weights), tmp_path / "audio.pt")
    assert str(tmp_path / "audio.pt") in one_line(found)


def test_training_does_not_go_on_from_mere_weights(tmp_path):
    config = talker_config(random_latents(tmp_path))
    weights = train.build("talker", config).state_dict()
    save_checkpoint(tmp_path, "talker", dict(model=weights, done=False, step=3))
    with pytest.raises(ValueError, match="talker.pt lacks dtype, optimizers, order, seconds"):
        train.train_talker(config, torch.device("cpu"), torch.float32)


def state(step: int, done=False) -> dict:
    return dict(model={"x": torch.full((3,), float(step))}, step=step, done=done)


def test_back_to_the_checkpoint_before(tmp_path, capsys):
    """The newest one can't be read. The log is cut back as far."""
    path, previous = checkpoint_paths(tmp_path, "talker")
    for step in (1, 2):
        save_checkpoint(tmp_path, "talker", state(step))
    assert resume_points(tmp_path, ("audio", "talker")) == dict(audio=0, talker=2)
    assert capsys.readouterr().out == "" and previous.exists()

    path.write_bytes(b"junk")
    steps = resume_points(tmp_path, ("audio", "talker"))
    said = capsys.readouterr().out
    assert steps == dict(audio=0, talker=1)
    assert str(path) in said and "of step 1" in said and said.count("\n") == 1
    assert load_checkpoint(tmp_path, "talker")["step"] == 1 and not finished(tmp_path, "talker")
    lines = [json.dumps(dict(stage="talker", step=step)) + "\n" for step in (1, 2)]
    (tmp_path / "log.jsonl").write_text("".join(lines))
    settings.open_run(train.Config(out_dir=str(tmp_path)), "key", steps)
    assert (tmp_path / "log.jsonl").read_text() == lines[0]

    # Without one before it nothing can be done.
    path.write_bytes(b"junk")
    with pytest.raises(ValueError, match="is damaged, or no checkpoint.*delete it"):
        resume_points(tmp_path, ("talker",))


@pytest.mark.parametrize("links", [True, False])
def test_the_checkpoint_before_is_kept_until_the_stage_is_finished(tmp_path, links, monkeypatch):
    def no_link(source, target):
        raise OSError(errno.EPERM, "this file system has no links")

    if not links:
        monkeypatch.setattr(os, "link", no_link)
    path, previous = checkpoint_paths(tmp_path, "talker")
    for step in (1, 2, 3):
        save_checkpoint(tmp_path, "talker", state(step))
    steps = [torch.load(file, weights_only=True)["step"] for file in (path, previous)]
    assert steps == [3, 2]
    assert path.stat().st_ino != previous.stat().st_ino
    # Killed between two renames, as it may happen without links.
    path.unlink()
    assert resume_points(tmp_path, ("talker",)) == dict(talker=2)
    save_checkpoint(tmp_path, "talker", state(3))
    save_checkpoint(tmp_path, "talker", state(3, done=True))
    assert finished(tmp_path, "talker") and [*tmp_path.iterdir()] == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_while_clips_and_latents_are_written(tmp_path):
    clips, latents = tmp_path / "clips", tmp_path / "latents"
    shard = latents / "00000000-00000001.pt"
    for path in (clips / "audio.i16", Path(f"{shard}.part")):
        path.parent.mkdir()
        path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="clips can't be written: disk full"):
        data.cache_clips(data.SyntheticCorpus(n=2), 2, clips, 1)
    item = dict(name="a", text="b", audio=np.zeros((9, 3), np.float32))
    with pytest.raises(OSError, match=f"{shard} can't be written: disk full"):
        data.LatentSet.write(latents, [item])
    assert not (clips / "index.json").exists() and not any(latents.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("numbers", [10, 1_000_000])
def test_a_full_disk(tmp_path, numbers):
    """The file that is written is one for which there is no space, ever."""
    path, _ = checkpoint_paths(tmp_path, "talker")
    save_checkpoint(tmp_path, "talker", state(1))
    Path(f"{path}.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="talker.pt can't be written: disk full"):
        save_checkpoint(tmp_path, "talker", state(2) | dict(more=torch.zeros(numbers)))
    assert not Path(f"{path}.part").exists()
    assert resume_points(tmp_path, ("talker",)) == dict(talker=1)


def test_a_file_that_can_not_be_finished_stays_as_it_was(tmp_path):
    (tmp_path / "a").write_text("old")
    with pytest.raises(KeyError), replacing(tmp_path / "a") as file:
        file.write(b"new")
        raise KeyError
    assert (tmp_path / "a").read_text() == "old" and len([*tmp_path.iterdir()]) == 1
    with pytest.raises(FileNotFoundError, match="nowhere.a can't be written"):
        with replacing(tmp_path / "nowhere" / "a"):
            pass


# --------------------------------------------------------------------------------- the run's folder
@pytest.mark.parametrize("content, message", [
    ("[1, 2]", "holds no settings by name"), ("version https://git-lfs", "it is not JSON"),
    ('{"width": "wide"}', "width is 'wide', and should be of the type int"),
    ('{"width": true}', "width is True"), ('{"layers": 2.5}', "layers is 2.5"),
    ('{"learning_rate": "1"}', "learning_rate is '1', and should be of the type float"),
    ('{"fsdp": "no"}', "fsdp is 'no'"), ('{"data": null}', "data is None")])
def test_a_damaged_config(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message) as found:
        train.run_config(tmp_path)
    assert one_line(found).startswith(str(tmp_path / "config.json"))


@unix
def test_a_folder_has_one_run(tmp_path):
    settings.lock_folder(tmp_path / "run")
    with pytest.raises(ValueError, match="another run is at work in .*run"):
        settings.lock_folder(tmp_path / "run")
    settings.lock_folder(tmp_path / "other")


# ---------------------------------------------------------------------------------------- machine
def check(there: float, *options: str) -> None:
    settings.check_memory(train.build, train.STAGES, train.parse_config([*options]), there)


def test_settings_that_need_more_memory_than_there_is(tmp_path, monkeypatch):
    for preset in train.PRESETS:
        check(80e9, f"--config={preset}")
    with pytest.raises(ValueError, match=r"the stage talker needs [\d.,]+ GB .* and there are 8.0 "
                                         r"GB of memory: .* .it has --width=100000000.$"):
        check(8e9, "--width=100000000", "--patch_heads=2")
    with pytest.raises(ValueError, match="there are 4.0 GB.*--audio_width=1280"):
        check(4e9, "--config=paper")
    # Sizes whose bytes can't even be counted, and depths that would take for ever to build.
    with pytest.raises(ValueError, match="talker can't be built .--width=1000000000000.*overflow"):
        check(math.inf, "--width=1000000000000", "--patch_heads=2")
    for option, most in (("layers=1001", 1000), ("width=10000000000000", 10 ** 12)):
        with pytest.raises(ValueError, match=f"must be at most {most}"):
            check(math.inf, f"--{option}")

    monkeypatch.setattr(sys, "argv", ["train.py", "--flow_width=60000000",
                                      f"--out_dir={tmp_path / 'out'}"])
    with pytest.raises(ValueError, match="--flow_width=60000000"):
        train.main()
    assert not (tmp_path / "out").exists()


def test_frozen_parts_of_another_run_need_no_memory_for_training():
    config = train.parse_config(["--config=paper"])
    config.layers = 1
    config.from_run = "somewhere"
    with pytest.raises(ValueError, match="the stage talker needs"):
        settings.check_memory(train.build, train.STAGES, config, 1e9)


def test_quotas_of_containers(monkeypatch):
    assert machine.quota("200000", "100000") == 2 and machine.quota("50000", "100000") == 0.5
    assert machine.quota("max", "100000") == machine.quota("-1\n", "100000\n") == math.inf
    assert machine.limit("max\n") == math.inf and machine.limit("2147483648\n") == 2 ** 31

    files = {}
    monkeypatch.setattr(machine, "control_group_files", lambda _, name: files.get(name, []))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    assert machine.usable_cores() == 16 and machine.cores() == 8
    # Version 2, of the group itself and the one around it; then version 1.
    files.update({"cpu.max": ["max 100000\n", "350000 100000\n"], "memory.max": ["max", "1000"]})
    assert machine.cores() == 3
    assert machine.memory(torch.device("cpu")) == 1000
    files.clear()
    files.update({"cpu.cfs_quota_us": ["-1", "50000"], "cpu.cfs_period_us": ["100000", "100000"],
                  "memory.limit_in_bytes": ["500"]})
    assert machine.cores() == 1
    assert machine.memory(torch.device("cpu")) == 500


def test_no_more_threads_than_cores(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    machine.prepare_machine(torch.device("cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(before)
    assert threads == 1


def test_devices(monkeypatch, capsys):
    assert machine.pick_device("cpu") == torch.device("cpu")
    for name in ("gpu", "mps", "cuda:x", "cuda:-1"):
        with pytest.raises(ValueError, match=f"the device is cpu, cuda, or cuda:N.*'{name}'"):
            machine.pick_device(name)
    with pytest.raises(ValueError, match="cuda:99 can't be used: .*--device=cpu can"):
        machine.pick_device("cuda:99")

    # A GPU that PyTorch sees, and has no kernels for.
    reason = "CUDA error: no kernel image is available for execution on the device"
    machine.say_once.cache_clear()
    monkeypatch.setattr(machine, "gpu_trouble", lambda device: reason)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for _ in range(2):
        assert machine.pick_device() == torch.device("cpu")
    said = capsys.readouterr().err
    assert said == f"The GPU can't be used ({reason}): computing on the CPU.\n"

    # A process of torchrun that has no GPU of its own must not compute on the CPU beside others.
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match=r"more processes than GPUs \(1\)"):
        machine.pick_device()


def test_the_device_may_change_when_a_run_is_resumed(tmp_path):
    settings.open_run(train.Config(out_dir=str(tmp_path), device="cuda:1"), "key", {})
    settings.open_run(train.Config(out_dir=str(tmp_path), device="cpu"), "key", {})
    assert train.run_config(tmp_path).device == "cpu"


if __name__ == "__main__":
    plainly(script, sys.argv[1])
