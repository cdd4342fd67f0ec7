"""The quoted lines, links and commands of the documentation exist, and the commands run."""
import re
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor

import imageio.v3 as imageio
import pytest
import soundfile

import autoencoders
import data
import heads
import model
from engine.media import write_clip
from tests.helpers import HOME, command

PAGES = [HOME / "README.md", *sorted((HOME / "docs").glob("*.md"))]


def test_every_formula_stands_beside_a_line_that_is_there():
    code = {line.strip() for name in ("model", "heads", "autoencoders", "engine/alignment")
            for line in (HOME / f"{name}.py").read_text(encoding="utf-8").splitlines()}
    quoted = re.findall(r"^    (.+)$", (HOME / "docs" / "maths.md").read_text(encoding="utf-8"),
                        re.MULTILINE)
    assert len(quoted) > 15
    missing = [line for line in quoted if line.strip() not in code]
    assert not missing, missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)|<img[^>]* src=\"([^\"]+)\"", text)
    for link in (a or b for a, b in links):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name} links {link}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_files_that_are_there(page):
    for block in re.findall(r"```\w*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for module in re.findall(r"python -m ((?:lab|paper|engine)[\w.]*)", block):
            assert (HOME / (module.replace(".", "/") + ".py")).exists(), module
        for script in re.findall(r"python (\w+\.py)", block):
            assert (HOME / script).exists(), script


@pytest.mark.parametrize("module, options, last", [
    (model, {}, "parameters  "), (heads, {"steps": 2}, "data, (1500, 1, 2)"),
    (autoencoders, {}, "pictures again  "), (data, {}, "motion_condition (3, 20)")],
    ids=lambda x: getattr(x, "__name__", ""))
def test_a_file_shows_its_shapes(module, options, last, capsys):
    """`python model.py` and so on, which the README names outside of its blocks of commands."""
    module.demonstrate(**options)
    assert last in capsys.readouterr().out


# ---------------------------------------------------------------------------------- the commands
# What a command is made of here, so that it takes seconds. CLIPS is a folder of clips.
SHORTER = [
    (r"--config (small|grid)", "--config tiny"), (r"--n (100|320)\b", "--n 3"), (r"--n 8", "--n 2"),
    (r"--out - \| ffplay -", "--out stream.mp4 "), (r"\bCLIPS\b", "clips"),
    (r"english/everyday.txt", "few.txt"), (r"--n 10000 1000000", "--n 30 --batches 2"),
    (r"\s#.*", "")]
# Commands that are not run here, and why.
NOT_HERE = {
    r"pip install|venv": "installs packages: the gate does it",
    r"train.py --config small$": "tests/conftest.py runs it",
    r"--crop 32,48,108": "tests/test_clips.py runs it",
    r"-m (lab.gallery|lab.ceiling|lab.metrics)": "tests/test_gallery.py runs them",
    r"-m lab.listen": "needs pocketsphinx, which is no package of ours",
    r"-m lab.reader": "takes a quarter of an hour",
    r"-m lab.bench": "tests/test_bench.py runs it",
    r"-m lab.ablate": "tests/test_ablate.py runs it",
    r"torchrun": "tests/test_processes.py runs it",
    r"--released|--frozen": "needs the released files",
    r"--autoencoders=paper": "takes too long: tests/test_release_files.py builds a smaller one",
    r"out/(joint|patch2|no_history|delay1|gesture)": "tests/test_forking.py runs it"}


def commands() -> list[list[str]]:
    """The commands of each page of README.md and docs/, every command once."""
    seen = set()
    pages = []
    for page in PAGES:
        found = []
        for block in re.findall(r"```\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [re.sub(" +", " ", line) for line in lines
                      if re.match(r"(python|torchrun|pip) ", line)]
        pages.append([line for line in dict.fromkeys(found) if line not in seen])
        seen.update(found)
    return pages


def test_every_command_runs(tiny_run, tmp_path):
    """In one folder, with what they mention beside them: those of a page in its order, and two
    pages side by side, since most of the time goes into importing PyTorch."""
    rooms = [HOME / room for room in ("lab", "paper", "engine", "english")]
    for path in (*HOME.glob("*.py"), *rooms):
        (tmp_path / path.name).symlink_to(path)
    corpus = data.SyntheticCorpus("test", 4)
    for i in range(4):
        clip = corpus[i]
        name = "some_clip" if i == 0 else f"clip_{i}"
        write_clip(tmp_path / "clips" / f"{name}.mp4", clip.video, clip.audio, 16000)
        (tmp_path / "clips" / f"{name}.txt").write_text(clip.text)
    shutil.copy(tmp_path / "clips" / "some_clip.mp4", tmp_path / "clip.mp4")
    write_clip(tmp_path / "silent.mp4", clip.video, None, 16000)
    soundfile.write(tmp_path / "speech.wav", clip.audio, 16000)
    soundfile.write(tmp_path / "a.wav", clip.audio, 16000)
    imageio.imwrite(tmp_path / "b.png", clip.video[0])
    (tmp_path / "few.txt").write_text("Hello world.\nHow are you?\n")
    (tmp_path / "texts.tsv").write_text("one\t3\tHello world.\n")

    shutil.copytree(tiny_run, tmp_path / "out" / "small")

    def run(page: list[str]) -> int:
        ran = 0
        for line in page:
            if any(re.search(pattern, line) for pattern in NOT_HERE):
                continue
            for pattern, shorter in SHORTER:
                line = re.sub(pattern, shorter, line)
            if line.startswith("python train.py --config tiny") and "--out_dir" not in line:
                line += " --out_dir out/small"
            words = shlex.split(line.replace('"..."', '"Hello world"'))
            assert words[0] == "python"
            said = command(*words[1:], cwd=tmp_path)
            assert "Traceback" not in said, said
            # What it names as its output is there.
            if "--out" in words and "--n 2" not in line:
                assert (tmp_path / words[words.index("--out") + 1]).exists(), line
            ran += 1
        return ran

    with ThreadPoolExecutor(2) as pool:
        assert sum(pool.map(run, commands())) >= 15
