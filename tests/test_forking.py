"""docs/forking.md: every diff is applied to a copy of the code, every command is run at `tiny`."""
import re
import shutil
import subprocess

import numpy as np
import pytest

from engine.media import read_video
from tests.helpers import HOME, check_clip, command

PAGE = (HOME / "docs" / "forking.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\d)\. (.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
CODE = ("*.py", "engine", "paper", "lab", "english")


def blocks(section: str, kind: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    return [text for name, text in fenced if name == kind]


def run_section(number: str, folder, run) -> list:
    """Apply the diffs and run the commands of a section -> the words of each command. run: what the
    page calls out/small."""
    for pattern in CODE:
        for path in HOME.glob(pattern):
            copy = shutil.copytree if path.is_dir() else shutil.copy
            copy(path, folder / path.name)
    (folder / "out").mkdir()
    (folder / "out" / "small").symlink_to(run)
    section = SECTIONS[number]
    for diff in blocks(section, "diff"):
        subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=folder, check=True)
    ran = []
    for line in "".join(blocks(section, "")).splitlines():
        words = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', line)]
        assert words[0] == "python"
        words = ["tiny" if word == "small" else word for word in words[1:]]
        assert "Traceback" not in command(*words, cwd=folder)
        ran.append(words)
    return ran


@pytest.mark.parametrize("number", sorted(SECTIONS))
def test_a_change(number, tmp_path, tiny_run):
    ran = run_section(number, tmp_path, tiny_run)
    assert [words[0] for words in ran] == ["train.py", "sample.py"]
    clip = tmp_path / ran[-1][ran[-1].index("--out") + 1]
    check_clip(clip)
    if number == "1":                     # the joint head serves a face for a speech, too
        command("sample.py", "--ckpt", "out/joint", "--audio", clip, "--text", "bin blue",
                "--face", clip, "--out", "out/joint/a2v.mp4", cwd=tmp_path)
        check_clip(tmp_path / "out" / "joint" / "a2v.mp4", len(read_video(clip, 64)) / 25)
    if number == "5":
        gesture = np.load(clip.with_suffix(".gesture.npy"))
        assert gesture.shape == (len(read_video(clip, 64)), 12) and np.isfinite(gesture).all()
        log = (tmp_path / "out" / "gesture" / "log.jsonl").read_text()
        assert '"gesture": ' in log and '"gesture_by_time"' in log


def test_all_five_are_there():
    assert sorted(SECTIONS) == list("12345")


