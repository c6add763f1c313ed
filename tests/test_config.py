import itertools
import re
from pathlib import Path

import pytest

from flowd.config import (
    ENVIRONMENT_PREFIX,
    BadSettings,
    Config,
    WalConfig,
    format_config,
    load_config,
    parse_listen,
)
from flowd.errors import ConfigError


def write(directory: Path, text: str) -> Path:
    path = directory / "flowd.toml"
    path.write_text(text)
    return path


def test_with_nothing_said_all_is_default():
    loaded = load_config(None, {}, {})
    assert loaded.config == Config()
    assert set(loaded.sources.values()) == {"default"}


def test_every_combination_of_sources_takes_the_strongest(tmp_path: Path):
    path = write(tmp_path, "shards = 3")
    for with_flag, with_variable, with_file in itertools.product([True, False], repeat=3):
        loaded = load_config(
            path if with_file else None,
            {"FLOWD_SHARDS": "5"} if with_variable else {},
            {"--shards": "7" if with_flag else None},
        )
        strongest = next(
            (value, source)
            for value, source, is_there in (
                (7, "--shards", with_flag),
                (5, "FLOWD_SHARDS", with_variable),
                (3, str(path), with_file),
                (None, "default", True),
            )
            if is_there
        )
        assert (loaded.config.shards, loaded.sources["shards"]) == strongest


def test_a_table_of_the_file_is_merged_setting_by_setting(tmp_path: Path):
    path = write(tmp_path, "[wal]\nsync = 'interval'\nsegment_bytes = 65536\n")
    loaded = load_config(path, {"FLOWD_WAL_SYNC": "always"}, {})
    assert loaded.config.wal == WalConfig(sync="always", segment_bytes=65536)
    assert loaded.sources["wal.sync"] == "FLOWD_WAL_SYNC"
    assert loaded.sources["wal.segment_bytes"] == str(path)


def test_the_environment_names_the_file_when_the_flag_does_not(tmp_path: Path):
    path = write(tmp_path, "shards = 3")
    assert load_config(None, {"FLOWD_CONFIG": str(path)}, {}).config.shards == 3
    assert load_config(path, {"FLOWD_CONFIG": "/nonexistent"}, {}).config.shards == 3
    assert load_config(None, {"FLOWD_CONFIG": ""}, {}).config == Config()


def test_text_becomes_the_type_of_its_setting():
    environ = {
        "FLOWD_SHARDS": "4",
        "FLOWD_INSECURE": "true",
        "FLOWD_LIMITS_HEADER_SECONDS": "2.5",
        "FLOWD_DATA_DIR": "7",
        "HOME": "/root",
    }
    config = load_config(None, environ, {}).config
    assert (config.shards, config.insecure, config.limits.header_seconds) == (4, True, 2.5)
    assert config.data_dir == "7"


def test_a_whole_number_of_seconds_is_fine_in_a_file(tmp_path: Path):
    config = load_config(write(tmp_path, "limits.header_seconds = 3"), {}, {}).config
    assert config.limits.header_seconds == 3.0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("shard = 3", "unknown setting shard; did you mean shards?"),
        ("zzz = 3", "unknown setting zzz"),
        ("[wall]\nsync = 'always'", "unknown setting wall; did you mean wal?"),
        ("[wal]\nsink = 'always'", "unknown setting wal.sink; did you mean wal.sync?"),
        ("wal = 3", "wal is a table: write [wal] and its settings below"),
        ("[listen]\nhost = 'x'", 'listen = {"host": "x"}: must be text'),
        ("shards = '3'", 'shards = "3": must be an integer from 1 to 64'),
        ("shards = 0", "shards = 0: must be an integer from 1 to 64"),
        ("shards = 65", "shards = 65: must be an integer from 1 to 64"),
        ("shards = true", "shards = true: must be an integer from 1 to 64"),
        ("kernel = 'fast'", 'kernel = "fast": must be one of auto, native, reference'),
        (
            "wal.segment_bytes = 1",
            "wal.segment_bytes = 1: must be an integer from 65536 to 4294967296",
        ),
        ("shards = 2026-01-01", 'shards = "2026-01-01": must be an integer'),
        ("shards = ", "not TOML: "),
        ("listen = '8000'", 'listen = "8000": expected HOST:PORT'),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(tmp_path: Path, text: str, reason: str):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as refusal:
        load_config(path, {}, {})
    message = str(refusal.value)
    assert reason in message
    assert "\n" not in message
    assert message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("environ", "reason"),
    [
        (
            {"FLOWD_WAL_SINK": "x"},
            "environment: unknown setting FLOWD_WAL_SINK; did you mean FLOWD_WAL_SYNC?",
        ),
        ({"FLOWD_SHARDS": "many"}, 'FLOWD_SHARDS: shards = "many": must be an integer from'),
        ({"FLOWD_SHARDS": ""}, 'FLOWD_SHARDS: shards = "": must be an integer from'),
        (
            {"FLOWD_INSECURE": "perhaps"},
            'FLOWD_INSECURE: insecure = "perhaps": must be true or false',
        ),
        (
            {"FLOWD_LOG_LEVEL": "INFO"},
            'FLOWD_LOG_LEVEL: log.level = "INFO": must be one of debug, info, warning, error',
        ),
        (
            {"FLOWD_LIMITS_BODY_SECONDS": "0"},
            'limits.body_seconds = "0": must be a number above 0, and 86400 at most',
        ),
        ({"FLOWD_LIMITS_FLOWS": "0"}, 'limits.flows = "0": must be an integer from 1 up'),
    ],
)
def test_what_is_wrong_with_the_environment_is_said(environ: dict[str, str], reason: str):
    with pytest.raises(ConfigError, match=re.escape(reason)):
        load_config(None, environ, {})


def test_what_is_wrong_with_a_flag_is_said():
    with pytest.raises(ConfigError, match=r"--data-dir: data_dir = 5: must be text"):
        load_config(None, {}, {"--data-dir": 5})
    with pytest.raises(
        ConfigError, match=r'--shards: shards = "0": must be an integer from 1 to 64'
    ):
        load_config(None, {}, {"--shards": "0"})


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    (tmp_path / "binary").write_bytes(b"a = '\xff'")
    for path, reason in (
        (tmp_path / "missing", "cannot be read: No such file or directory"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "binary", "not UTF-8 at byte 5"),
    ):
        with pytest.raises(ConfigError, match=f"{path}: {reason}"):
            load_config(path, {}, {})


def test_the_variable_that_named_a_missing_file_is_named():
    with pytest.raises(
        ConfigError, match=r"^FLOWD_CONFIG: /missing\.toml: cannot be read: No such"
    ):
        load_config(None, {"FLOWD_CONFIG": "/missing.toml"}, {})


def test_every_mistake_is_told_wherever_it_stands(tmp_path: Path):
    path = write(tmp_path, "shard = 3\nrouters = 0\nwal = 1\n[log]\nlevel = 'INFO'\nlvl = 1")
    with pytest.raises(BadSettings) as refusal:
        load_config(path, {"FLOWD_ROUTER": "", "FLOWD_INSECURE": ""}, {"--shards": "0"})
    assert refusal.value.mistakes == [
        f"{path}: wal is a table: write [wal] and its settings below",
        f"{path}: unknown setting shard; did you mean shards?",
        f"{path}: unknown setting log.lvl; did you mean log.level?",
        f"{path}: routers = 0: must be an integer from 1 to 256",
        f'{path}: log.level = "INFO": must be one of debug, info, warning, error',
        "environment: unknown setting FLOWD_ROUTER; did you mean FLOWD_ROUTERS?",
        'FLOWD_INSECURE: insecure = "": must be true or false',
        '--shards: shards = "0": must be an integer from 1 to 64',
    ]
    assert str(refusal.value) == "\n".join(refusal.value.mistakes)


@pytest.mark.parametrize(
    ("mistakes", "last"), [(20, "unknown setting zz19"), (21, "and 2 more mistakes")]
)
def test_no_more_than_twenty_lines_are_told(tmp_path: Path, mistakes: int, last: str):
    path = write(tmp_path, "\n".join(f"zz{number} = 1" for number in range(mistakes)))
    with pytest.raises(BadSettings) as refusal:
        load_config(path, {}, {})
    assert len(refusal.value.mistakes) == 20
    assert refusal.value.mistakes[-1].endswith(last)


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path):
    path = write(tmp_path, "limits.body_bytes = 2000")
    environ = {
        "FLOWD_LIMITS_IN_FLIGHT_BYTES": "10",
        "FLOWD_LIMITS_BODY_DECODED_BYTES": "1000",
        "FLOWD_DATA_DIR": "",
    }
    with pytest.raises(BadSettings) as refusal:
        load_config(path, environ, {"--listen": "80"})
    ending = "so that no such body could ever be taken; raise it or lower the other"
    assert refusal.value.mistakes == [
        '--listen: listen = "80": expected HOST:PORT with a port of 0 to 65535, for example '
        "127.0.0.1:8000 or [::1]:8000",
        'FLOWD_DATA_DIR: data_dir = "": must name a directory',
        f"FLOWD_LIMITS_BODY_DECODED_BYTES, {path}: limits.body_decoded_bytes = 1000: below "
        f"limits.body_bytes = 2000, {ending}",
        "FLOWD_LIMITS_IN_FLIGHT_BYTES, FLOWD_LIMITS_BODY_DECODED_BYTES: limits.in_flight_bytes = "
        f"10: below limits.body_decoded_bytes = 1000, {ending}",
    ]


def test_a_path_has_no_nul(tmp_path: Path):
    path = write(tmp_path, 'data_dir = "a\\u0000"\nruntime_dir = "b\\u0000"')
    with pytest.raises(BadSettings) as refusal:
        load_config(path, {}, {})
    assert refusal.value.mistakes == [
        f'{path}: data_dir = "a\\u0000": must name a directory',
        f'{path}: runtime_dir = "b\\u0000": must name a directory',
    ]


def test_every_setting_has_a_variable_of_its_own():
    names = [name.upper().replace(".", "_") for name in load_config(None, {}, {}).sources]
    assert len(set(names)) == len(names)
    assert "CONFIG" not in names  # which names the file
    assert ENVIRONMENT_PREFIX == "FLOWD_"


def test_the_printed_configuration_reads_back_to_the_same(tmp_path: Path):
    environ = {
        "FLOWD_DATA_DIR": 'a "b" \\ \x7f \x01 \t é 😀 # c',
        "FLOWD_WAL_SYNC": "interval",
        "FLOWD_INSECURE": "1",
        "FLOWD_LIMITS_HEADER_SECONDS": "0.25",
        "FLOWD_LOG_FORMAT": "json",
    }
    for shards in (None, "3"):
        loaded = load_config(None, environ, {"--shards": shards})
        again = load_config(write(tmp_path, format_config(loaded)), {}, {})
        assert again.config == loaded.config


def test_the_printed_configuration_names_the_source_of_each_setting(tmp_path: Path):
    path = write(tmp_path, "routers = 2")
    lines = format_config(load_config(path, {"FLOWD_WAL_SYNC": "always"}, {"--kernel": "auto"}))
    found = dict(re.findall(r"^(?:# )?(\w+) = .*# (\S+)$", lines, re.MULTILINE))
    assert found["routers"] == str(path)
    assert found["sync"] == "FLOWD_WAL_SYNC"
    assert found["kernel"] == "--kernel"
    assert found["data_dir"] == "default"
    assert re.search(r"^# shards = +# default$", lines, re.MULTILINE)
    assert len(found) == lines.count(" = ")


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:65535", ("::1", 65535)),
        ("[fe80::1%eth0]:80", ("fe80::1%eth0", 80)),
    ],
)
def test_an_address_to_listen_on_is_taken_apart(listen: str, expected: tuple[str, int]):
    assert parse_listen(listen) == expected


@pytest.mark.parametrize(
    "listen",
    [
        "",
        ":",
        ":80",
        "host",
        "host:",
        "host:-1",
        "host:65536",
        "host:http",
        "::1:80",
        "[]:80",
        "[::1]",
        "host:٣",
        "host:1.5",
    ],
)
def test_what_is_no_address_to_listen_on_is_refused(listen: str):
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        parse_listen(listen)
