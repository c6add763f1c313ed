"""The settings: one frozen value, checked once, handed to every process.

Where a value comes from (flag over environment over file over default) is decided in `load_config`;
nothing else in flowd reads the environment. Unknown names are errors wherever they stand. Units are
last in each name. Every setting is described in `docs/operations.md`.
"""

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta

from flowd.errors import ConfigError
from flowd.flow import SHARDS_MAX

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]

KIB = 1024
MIB = 1024 * KIB


class WalConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The write-ahead log.

    Attributes:
        sync: `always` acknowledges after fdatasync; `interval` after the write, with a sync every
            `sync_interval_seconds`, so that a power cut may take that much of what was
            acknowledged.
        sync_interval_seconds: see `sync`.
        segment_bytes: how large a segment is made; a larger log record gets a segment of its own.
    """

    sync: Literal["always", "interval"] = "always"
    sync_interval_seconds: Seconds = 1.0
    segment_bytes: Annotated[int, Meta(ge=64 * KIB, le=4096 * MIB)] = 64 * MIB


class CheckpointConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Checkpoints.

    Attributes:
        log_bytes: a checkpoint is due when the log has grown by this much since the last one, or by
            as much as it would write, whichever is more.
    """

    log_bytes: Annotated[int, Meta(ge=64 * KIB)] = 256 * MIB


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one flowd takes, all routers together; `docs/operations.md` has the answer at each."""

    body_bytes: Positive = 32 * MIB
    body_decoded_bytes: Positive = 64 * MIB
    flows: Positive = 100_000
    header_seconds: Seconds = 10.0
    body_seconds: Seconds = 30.0
    idle_seconds: Seconds = 75.0
    handler_seconds: Seconds = 60.0
    connections: Positive = 1_024
    in_flight_bytes: Positive = 256 * MIB
    queries: Positive = 64
    max_rows: Positive = 10_000_000
    name_bytes: Positive = 256 * MIB
    batch_ids: Positive = 4_000_000
    free_disk_bytes: Annotated[int, Meta(ge=0)] = 512 * MIB


class LogConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The process's own log, on standard error.

    Attributes:
        level: the least severe lines to write.
        format: `json`, one object a line, or `console` for reading.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "console"] = "console"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of one `flowd serve`.

    Attributes:
        listen: HOST:PORT; port 0 takes a free one, which the log names.
        data_dir: where everything durable is.
        runtime_dir: where the private sockets are; "" for one in the system's temporary directory.
        shards: how many workers; None for what the data directory has, or 2 in a new one.
        routers: how many routers.
        kernel: which data plane; `auto` takes native where it is built.
        insecure: listen on other addresses than loopback although nobody is asked who they are.
    """

    listen: str = "127.0.0.1:8000"
    insecure: bool = False
    data_dir: str = "./data"
    runtime_dir: str = ""
    shards: Annotated[int, Meta(ge=1, le=SHARDS_MAX)] | None = None
    routers: Annotated[int, Meta(ge=1, le=256)] = 1
    kernel: Literal["auto", "native", "reference"] = "auto"
    wal: WalConfig = WalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    limits: LimitsConfig = LimitsConfig()
    log: LogConfig = LogConfig()


ENVIRONMENT_PREFIX: Final = "FLOWD_"
FILE_VARIABLE: Final = "FLOWD_CONFIG"
"""Names the file when the flag does not."""

MISTAKES_MAX: Final = 20
"""How many lines a refusal has."""


class BadSettings(ConfigError):
    """Settings that are wrong.

    Args:
        mistakes: one line each, at least one.

    Attributes:
        mistakes: the first of them, `MISTAKES_MAX` lines at most.
    """

    def __init__(self, mistakes: list[str]) -> None:
        if len(mistakes) > MISTAKES_MAX:
            shown = MISTAKES_MAX - 1
            mistakes = [*mistakes[:shown], f"and {len(mistakes) - shown} more mistakes"]
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class LoadedConfig(NamedTuple):
    """A configuration and where it is from.

    config: the settings, checked.
    sources: setting (`wal.sync`) → the flag, variable or file that set it, or `default`.
    """

    config: Config
    sources: dict[str, str]


def load_config(
    path: Path | None, environ: Mapping[str, str], flags: Mapping[str, object]
) -> LoadedConfig:
    """Make the one configuration out of all that was said.

    Args:
        path: the TOML file; None for what FLOWD_CONFIG names, or none.
        environ: the environment; everything that starts with FLOWD_ must be a setting.
        flags: flag (`--data-dir`) → value; None where it was not given.

    Raises:
        BadSettings: names are unknown, values out of range, or settings contradict each other; each
            line says which, where and what is allowed.
        ConfigError: the file cannot be read.
    """
    settings = _settings(Config)
    values: dict[str, object] = {}
    sources = dict.fromkeys(settings, "default")
    mistakes: list[str] = []

    def put(setting: str, value: object, source: str, *, is_text: bool) -> None:
        kind = settings[setting].type
        try:
            values[setting] = msgspec.convert(value, kind, strict=not is_text)
            sources[setting] = source
        except msgspec.ValidationError:
            shown = json.dumps(value, default=str)
            mistakes.append(f"{source}: {setting} = {shown}: must be {_allowed(kind)}")

    content, file = _read_file(path, environ)
    for setting, value in _flatten(content, settings, file, mistakes):
        put(setting, value, file, is_text=False)
    for variable, setting in _match_variables(environ, settings, mistakes):
        put(setting, environ[variable], variable, is_text=True)
    for flag, value in flags.items():
        if value is not None:
            put(flag.removeprefix("--").replace("-", "_"), value, flag, is_text=True)

    if not mistakes:
        config = msgspec.convert(_nest(values), Config)
        mistakes += _contradictions(config, sources)
    if mistakes:
        raise BadSettings(mistakes)
    return LoadedConfig(config, sources)


def parse_listen(listen: str) -> tuple[str, int]:
    """Take `HOST:PORT` apart; an IPv6 address stands in brackets, as in `[::1]:8000`.

    Raises:
        ConfigError: it is neither.
    """
    host, colon, port = listen.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if is_bracketed else host
    is_port = port.isascii() and port.isdecimal() and int(port) <= 65_535
    if not (colon and bare and is_port) or (":" in bare and not is_bracketed):
        raise ConfigError(
            f"listen = {json.dumps(listen)}: expected HOST:PORT with a port of 0 to 65535, "
            "for example 127.0.0.1:8000 or [::1]:8000"
        )
    return bare, int(port)


def format_config(loaded: LoadedConfig) -> str:
    """Write a configuration as TOML, each line with its source; it reads back to the same."""
    lines = []
    table = ""
    for setting, value in _leaves(loaded.config):
        owner, _, name = setting.rpartition(".")
        if owner != table:
            lines += ["", f"[{owner}]"]
            table = owner
        line = f"# {name} =" if value is None else f"{name} = {_toml(value)}"
        lines.append(f"{line:<40} # {loaded.sources[setting]}")
    return "\n".join(lines) + "\n"


def _settings(
    struct: type[msgspec.Struct], prefix: str = ""
) -> dict[str, msgspec.structs.FieldInfo]:
    """List every setting by its dotted name, in the order in which the structs have them."""
    settings: dict[str, msgspec.structs.FieldInfo] = {}
    for field in msgspec.structs.fields(struct):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            settings |= _settings(field.type, f"{prefix}{field.name}.")
        else:
            settings[prefix + field.name] = field
    return settings


def _leaves(struct: msgspec.Struct, prefix: str = "") -> Iterator[tuple[str, object]]:
    for name, value in msgspec.structs.asdict(struct).items():
        if isinstance(value, msgspec.Struct):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _nest(values: Mapping[str, object]) -> dict[str, object]:
    nested: dict[str, object] = {}
    for setting, value in values.items():
        table, _, name = setting.rpartition(".")
        owner = nested.setdefault(table, {}) if table else nested
        assert isinstance(owner, dict)
        owner[name] = value
    return nested


def _read_file(path: Path | None, environ: Mapping[str, str]) -> tuple[dict[str, object], str]:
    """Give the content and the name of the file, if there is to be one."""
    told_by = ""
    if path is None:
        if not environ.get(FILE_VARIABLE):
            return {}, ""
        path, told_by = Path(environ[FILE_VARIABLE]), f"{FILE_VARIABLE}: "
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), str(path)
    except OSError as error:
        reason = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 at byte {error.start}"
    except tomllib.TOMLDecodeError as error:
        reason = f"not TOML: {error}"
    raise ConfigError(f"{told_by}{path}: {reason}")


def _flatten(
    content: Mapping[str, object], known: Mapping[str, object], file: str, mistakes: list[str]
) -> list[tuple[str, object]]:
    """Give the known settings of a file by their dotted names; what is not known is a mistake."""
    tables = {setting.rpartition(".")[0] for setting in known} - {""}
    found: list[tuple[str, object]] = []
    for name, value in content.items():
        if name not in tables:
            found.append((name, value))
        elif isinstance(value, dict):
            found += [(f"{name}.{inner}", inner_value) for inner, inner_value in value.items()]
        else:
            mistakes.append(f"{file}: {name} is a table: write [{name}] and its settings below")
    names = [*known, *tables]
    mistakes += [
        f"{file}: unknown setting {setting}{_hint(setting, names)}"
        for setting, _ in found
        if setting not in known
    ]
    return [(setting, value) for setting, value in found if setting in known]


def _match_variables(
    environ: Mapping[str, str], known: Mapping[str, object], mistakes: list[str]
) -> list[tuple[str, str]]:
    settings = {
        ENVIRONMENT_PREFIX + setting.upper().replace(".", "_"): setting for setting in known
    }
    found = []
    for variable in sorted(environ):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable == FILE_VARIABLE:
            continue
        if variable in settings:
            found.append((variable, settings[variable]))
        else:
            hint = _hint(variable, [*settings, FILE_VARIABLE])
            mistakes.append(f"environment: unknown setting {variable}{hint}")
    return found


def _contradictions(config: Config, sources: Mapping[str, str]) -> list[str]:
    """Find what is wrong although each value is of its type and in its range."""
    found = []

    def refuse(reason: str, *settings: str) -> None:
        told_by = dict.fromkeys(sources[s] for s in settings if sources[s] != "default")
        found.append(f"{', '.join(told_by)}: {reason}")

    try:
        parse_listen(config.listen)
    except ConfigError as error:
        refuse(str(error), "listen")
    if not config.data_dir or "\0" in config.data_dir:
        refuse(f"data_dir = {_toml(config.data_dir)}: must name a directory", "data_dir")
    if "\0" in config.runtime_dir:
        refuse(f"runtime_dir = {_toml(config.runtime_dir)}: must name a directory", "runtime_dir")
    limits = config.limits
    # A body that is not compressed has as many bytes before as after.
    for least, most in (
        ("body_bytes", "body_decoded_bytes"),
        ("body_decoded_bytes", "in_flight_bytes"),
    ):
        if getattr(limits, least) > getattr(limits, most):
            refuse(
                f"limits.{most} = {getattr(limits, most)}: below limits.{least} = "
                f"{getattr(limits, least)}, so that no such body could ever be taken; raise it or "
                "lower the other",
                f"limits.{most}",
                f"limits.{least}",
            )
    return found


def _hint(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _allowed(kind: Any) -> str:
    """Say what a setting's type lets in."""
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.UnionType):  # with None, which stands for nothing said
        (info,) = (t for t in info.types if not isinstance(t, msgspec.inspect.NoneType))
    if isinstance(info, msgspec.inspect.BoolType):
        return "true or false"
    if isinstance(info, msgspec.inspect.IntType):
        return f"an integer from {info.ge}" + (" up" if info.le is None else f" to {info.le}")
    if isinstance(info, msgspec.inspect.FloatType):
        return f"a number above {info.gt}, and {info.le} at most"
    return "text"


def _toml(value: object) -> str:
    """Write a scalar; a JSON string is a TOML string, but for DEL, which TOML wants escaped."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
