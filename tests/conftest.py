"""What tests of several files share."""
import pytest

from tests.helpers import command


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """A finished run of preset `tiny`. Tests leave it as it is: what changes a run takes a copy."""
    out = tmp_path_factory.mktemp("out") / "small"
    command("train.py", "--config", "tiny", "--out_dir", out)
    return out
