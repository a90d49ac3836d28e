"""The environment is read once, strictly, and tests can override what it said."""

from pathlib import Path

import pytest

from tracegrad.config import TOPICS, config, read


def test_an_empty_environment_turns_everything_off():
    settings = read({})
    assert settings.log == frozenset()
    assert settings.dump is None
    assert settings.check is False
    assert settings.disable is False
    assert settings.cache_dir.name == "tracegrad"
    assert settings.num_threads is None
    assert settings.compile_processes is None


def test_variables_are_read(tmp_path):
    settings = read(
        {
            "TRACEGRAD_LOG": "trace, Cache,",
            "TRACEGRAD_DUMP": str(tmp_path / "dump"),
            "TRACEGRAD_CHECK": "1",
            "TRACEGRAD_DISABLE": "true",
            "TRACEGRAD_CACHE_DIR": str(tmp_path / "cache"),
            "TRACEGRAD_CACHE_SIZE": "3",
            "TRACEGRAD_NUM_THREADS": "3",
            "TRACEGRAD_COMPILE_PROCESSES": "0",
        }
    )
    assert settings.cache_limit == 3 << 20
    assert settings.log == {"trace", "cache"}
    assert settings.dump == tmp_path / "dump"
    assert settings.check is True
    assert settings.disable is True
    assert settings.cache_dir == tmp_path / "cache"
    assert settings.num_threads == 3
    assert settings.compile_processes == 0


def test_all_topics():
    assert read({"TRACEGRAD_LOG": "all"}).log == TOPICS


def test_a_home_directory_in_a_path_is_expanded():
    assert read({"TRACEGRAD_CACHE_DIR": "~/kernels"}).cache_dir == Path.home() / "kernels"


@pytest.mark.parametrize("text", ["0", "false", "off", ""])
def test_a_flag_can_be_off(text):
    assert read({"TRACEGRAD_CHECK": text}).check is False


def test_an_unknown_topic_is_an_error_that_names_the_topics():
    with pytest.raises(ValueError, match=r"unknown topic kernel; topics are trace, .* or all"):
        read({"TRACEGRAD_LOG": "trace,kernel"})


def test_a_flag_that_means_nothing_is_an_error():
    with pytest.raises(ValueError, match="TRACEGRAD_CHECK: expected 1 or 0, got 'maybe'"):
        read({"TRACEGRAD_CHECK": "maybe"})


def test_a_number_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="TRACEGRAD_CACHE_SIZE: expected a whole number"):
        read({"TRACEGRAD_CACHE_SIZE": "1.5 GB"})


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_number_of_threads_is_at_least_one(text):
    with pytest.raises(ValueError, match="TRACEGRAD_NUM_THREADS: expected a whole number"):
        read({"TRACEGRAD_NUM_THREADS": text})


def test_override_lasts_for_its_block_even_if_the_block_fails():
    before = config.check
    with pytest.raises(KeyError), config.override(check=not before) as inside:
        assert inside is config
        assert config.check is not before
        raise KeyError
    assert config.check is before


def test_override_refuses_a_name_that_is_no_setting_and_changes_nothing():
    before = config.check
    with (
        pytest.raises(TypeError, match="no setting named chekc"),
        config.override(check=1, chekc=1),
    ):
        pass
    assert config.check is before


def test_a_setting_cannot_be_assigned():
    with pytest.raises(AttributeError):
        config.check = True
