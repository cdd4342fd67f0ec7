"""What is understood: edit distance, kinds of failure, the reader of phones (lab/listen.py)."""
import numpy as np
import pytest
import torch

import data
from lab import listen, reader


def test_edit_distance():
    pairs = listen.align(list("kitten"), list("sitting"))
    assert listen.errors(pairs) == 3
    assert [true for true, _ in pairs if true] == list("kitten")
    assert [found for _, found in pairs if found] == list("sitting")
    assert listen.errors(listen.align([], list("ab"))) == 2
    assert listen.errors(listen.align(list("ab"), [])) == 2


class Heard:
    """A reader that reads a given text."""

    def __init__(self, text: str):
        self.text = text

    def phones(self, audio) -> list[int]:
        return reader.spoken_phones(self.text)


@pytest.mark.parametrize("heard, failed", [
    ("hello world again", {}), ("hello again", {"skipped": 1}),
    ("hello world again again", {"repeated": 1}), ("hello {W AO K T} again", {"mumbled": 1})])
def test_failures_are_counted(heard, failed):
    found = listen.read_phones(Heard(heard), ["hello world again"], [np.zeros(100)])
    for kind in ("skipped", "mumbled", "repeated"):
        assert found[kind] == pytest.approx(1000 / 3 * failed.get(kind, 0))
    assert (found["phones"] == 0) == (not failed)
    assert found["complete"] == (0 if {"skipped", "repeated"} & failed.keys() else 100)


def test_words_and_their_phones():
    text = "Don't go, at F two."
    assert listen.words_of(text) == ["don't", "go", "at", "f", "two"]
    assert len(listen.pronounced(text)) == 5
    assert listen.pronounced(text)[3] == ("EH", "F")


def test_the_reader_learns():
    """A few steps lower the loss, and shapes are what they say."""
    torch.manual_seed(0)
    model = reader.train_reader(n=16, epochs=3, batch=4)
    clip = data.SyntheticCorpus("test", 2)[0]
    assert all(1 <= number <= 39 for number in model.phones(clip.audio))
    scores = model(torch.zeros(2, 100, 40))
    assert scores.shape == (2, 50, 40)
    assert torch.allclose(scores.exp().sum(-1), torch.ones(2, 50), atol=1e-5)


def test_forced_choice_of_the_truth():
    """The recogniser takes most true words for what they are."""
    pytest.importorskip("pocketsphinx", reason="pocketsphinx is not installed")
    corpus = data.SyntheticCorpus("test", 3)
    texts = ["the water is cold", "seven people waited outside"]
    jobs = [(text, corpus.say(text, 7).audio) for text in texts]
    wrong = [listen.choose(jobs, index, choices=10) for index in range(2)]
    assert [len(row) for row in wrong] == [4, 4]
    assert sum(map(sum, wrong)) <= 1
    swapped = listen.choose([(texts[1], jobs[0][1])], 0, choices=10)
    assert sum(swapped) >= 3
    # The same by worker processes.
    found = listen.forced_choice(texts, [audio for _, audio in jobs], 10)
    assert all(share <= 50 for share in found.values())
