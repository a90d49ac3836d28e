"""Topics and dumped stages."""

import threading

from tracegrad.config import config
from tracegrad.log import dump, enabled, log


def test_a_topic_that_is_off_costs_nothing(capsys):
    def costly():
        raise AssertionError("made a message that nobody asked for")

    with config.override(log=frozenset({"cache"})):
        assert not enabled("trace")
        log("trace", costly)
    assert capsys.readouterr().err == ""


def test_a_topic_that_is_on_prefixes_every_line(capsys):
    with config.override(log=frozenset({"trace"})):
        assert enabled("trace")
        log("trace", lambda: "one\ntwo")
        log("trace", "three")
    expected = "tracegrad[trace] one\ntracegrad[trace] two\ntracegrad[trace] three\n"
    assert capsys.readouterr().err == expected


def test_no_dump_directory_no_files():
    with config.override(dump=None):
        assert dump("forward", "loss", "text") is None


def test_dumped_files_are_numbered_in_order_of_writing(tmp_path):
    with config.override(dump=tmp_path / "new"):
        dump("forward", "loss", "a")
        dump("backward", "loss", "b\n")
        dump("source", "<lambda>", "c")
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["0001-loss-forward.py", "0002-loss-backward.py", "0003-lambda-source.py"]
    assert (tmp_path / "new" / "0001-loss-forward.py").read_text() == "a\n"
    assert (tmp_path / "new" / "0002-loss-backward.py").read_text() == "b\n"


def test_a_second_run_goes_on_from_the_first(tmp_path):
    (tmp_path / "0041-loss-forward.py").write_text("earlier\n")
    (tmp_path / "notes.txt").write_text("not ours\n")
    with config.override(dump=tmp_path):
        path = dump("forward", "loss", "later")
    assert path.name == "0042-loss-forward.py"


def test_threads_get_different_numbers(tmp_path):
    with config.override(dump=tmp_path):
        threads = [
            threading.Thread(target=dump, args=("forward", "loss", str(index)))
            for index in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    names = sorted(path.name[:4] for path in tmp_path.iterdir())
    assert names == [f"{number:04d}" for number in range(1, 9)]
