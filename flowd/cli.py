"""The command line: arguments, environment and file in, one exit status out.

0 done, 2 usage, 78 a configuration that cannot work, 1 anything else; each but the first with one
clear line on standard error. That another flowd has the data directory or the address is a 1: the
same configuration works once that one has stopped, so that a service manager may try again. `serve`
wires all parts, top to bottom.
"""

import asyncio
import contextlib
import os
import resource
import secrets
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import click
import msgspec

from flowd import __version__
from flowd.client import AnsweredRow, ask_pages, decode_rows, is_date, parse_hour
from flowd.config import BadSettings, Config, LoadedConfig, format_config, load_config
from flowd.control import EXIT_CONFIG, Assignment, KernelName, Role
from flowd.data_directory import (
    IDENTITY_NAME,
    SHARDS_DEFAULT,
    DataDirectory,
    inspect_data_directory,
)
from flowd.errors import ConfigError, FlowdError
from flowd.filesystem import LocalFileSystem
from flowd.kernel import load_kernel
from flowd.listen import Listener, check_listen, open_listener
from flowd.logs import configure_logs, escape_control_characters, get_logger
from flowd.metrics import SupervisorMetrics, new_registry
from flowd.runtime_directory import RuntimeDirectory, supervisor_socket
from flowd.scrape import serve_metrics
from flowd.sdnotify import Notifier
from flowd.supervisor.child_process import child_environment
from flowd.supervisor.supervisor import Supervisor
from flowd.supervisor.timing import Timing

EXIT_FAILED: Final = 1
CHILD_COMMAND: Final = (sys.executable, "-P", "-m", "flowd.child")
"""-P: whatever lies in the working directory is not imported."""

TABLE_ROWS_DEFAULT: Final = 1_000

log = get_logger()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `flowd` command and exit.

    Args:
        arguments: without the program's name; None for the process's own.
    """
    try:
        status = commands.main(arguments, prog_name="flowd", standalone_mode=False) or 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = error.exit_code
    except click.ClickException as error:
        status = _complain(error.format_message(), error.exit_code)
    except BadSettings as error:
        for mistake in error.mistakes:
            status = _complain(mistake, EXIT_CONFIG)
    except ConfigError as error:
        status = _complain(str(error), EXIT_CONFIG)
    except FlowdError as error:
        status = _complain(str(error), EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        status = _complain("interrupted", EXIT_FAILED)
    except BrokenPipeError:
        # Whoever read the output has enough; the interpreter must not try to flush the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_FAILED
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="flowd", message="%(prog)s %(version)s")
def commands() -> None:
    """Sum network flows per app pair, VPC and hour, durably, and answer who talked to whom."""


def _settings_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say what the configuration is; `_load` takes them."""
    options = (
        click.option("--config", "path", type=click.Path(path_type=Path), help="A TOML file."),
        click.option("--listen", metavar="HOST:PORT", help="Where to listen; port 0: a free one."),
        click.option("--data-dir", metavar="DIR", help="Where everything durable is."),
        click.option("--shards", metavar="N", help="How many workers, in a new data directory."),
        click.option("--routers", metavar="R", help="How many routers."),
        click.option("--kernel", metavar="auto|native|reference", help="Which data plane."),
        click.option(
            "--insecure",
            is_flag=True,
            default=None,
            help="Listen on other addresses than loopback, to clients that nobody checks.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _load(path: Path | None, settings: dict[str, object]) -> LoadedConfig:
    flags = {f"--{name.replace('_', '-')}": value for name, value in settings.items()}
    return load_config(path, os.environ, flags)


@commands.command()
@_settings_options
def serve(path: Path | None, **settings: object) -> int:
    """Take flows and answer queries.

    Until told to stop: SIGTERM or Ctrl-C.
    """
    config = _load(path, settings).config
    configure_logs(config.log, "supervisor")
    check_listen(config)
    kernel: KernelName = "native" if load_kernel(config.kernel).name == "native" else "reference"
    _raise_open_files_limit()
    files, data_dir = LocalFileSystem(), Path(config.data_dir)
    is_new = inspect_data_directory(files, data_dir, config.shards) is None
    with contextlib.ExitStack() as stack:

        def listen() -> Listener:
            return stack.enter_context(contextlib.closing(open_listener(config)))

        # A flowd that cannot listen makes no data directory. An existing one is locked first: that
        # another flowd has it says more than that the port is in use.
        listener = listen() if is_new else None
        data = DataDirectory.open(files, data_dir, config.shards)
        stack.callback(data.close)
        runtime = RuntimeDirectory.open(config.runtime_dir, data.path)
        stack.callback(runtime.close)
        listener = listener or listen()
        registry = new_registry(kernel)
        boot = secrets.token_hex(16)

        def assign(role: Role, index: int) -> Assignment:
            return Assignment(
                role=role,
                index=index,
                config=config,
                data_dir=str(data.path),
                identity=data.identity,
                runtime_dir=str(runtime.path),
                boot=boot,
                kernel=kernel,
                listen_descriptor=listener.socket.fileno() if role == "router" else None,
            )

        supervisor = Supervisor(
            [
                *(assign("worker", shard) for shard in range(data.identity.shards)),
                *(assign("router", router) for router in range(config.routers)),
            ],
            command=CHILD_COMMAND,
            environ=child_environment(os.environ, sys.path),
            listener=listener,
            runtime=runtime,
            notifier=Notifier.from_environment(os.environ, os.getpid()),
            metrics=SupervisorMetrics(registry),
            timing=Timing(),
        )

        async def supervise() -> int:
            async with await serve_metrics(supervisor_socket(runtime.path), registry):
                return await supervisor.run()

        _tell_start(config, data, kernel, is_loopback=listener.is_loopback)
        return asyncio.run(supervise())


@commands.command("check-config")
@_settings_options
def check_config(path: Path | None, **settings: object) -> None:
    """Check and print the settings.

    As TOML, each with where it is from. Exit status 78 if flowd could not work with them.
    """
    config, sources = _load(path, settings)
    check_listen(config)
    load_kernel(config.kernel)
    data_dir = Path(config.data_dir)
    identity = inspect_data_directory(LocalFileSystem(), data_dir, config.shards)
    if config.shards is None:
        shards, source = SHARDS_DEFAULT, "default"
        if identity is not None:
            shards, source = identity.shards, str(data_dir / IDENTITY_NAME)
        config = msgspec.structs.replace(config, shards=shards)
        sources = sources | {"shards": source}
    click.echo(format_config(LoadedConfig(config, sources)), nl=False)


class Hour(click.ParamType[int]):
    """An hour on the command line; see `client.parse_hour`.

    Args:
        is_end: it ends a range, so that the hour that a time is in is within.
        is_single: it is all that is asked for, which a date alone hardly means.
    """

    name = "hour"

    def __init__(self, *, is_end: bool = False, is_single: bool = False) -> None:
        self._is_end = is_end
        self._is_single = is_single

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it, or fail as click wants it."""
        try:
            hour = parse_hour(str(value), round_up=self._is_end)
        except ValueError as error:
            self.fail(f"{value!r} {error}", param, ctx)
        if self._is_single and is_date(value):
            self.fail(
                f"{value!r} is a day; name one hour, as in {value}T10, or give --from and --to",
                param,
                ctx,
            )
        return hour


@commands.command()
@click.option("--url", default="http://127.0.0.1:8000", show_default=True, help="Where flowd is.")
@click.option(
    "--hour",
    type=Hour(is_single=True),
    help="One hour: its number, or a time in it (ISO 8601; UTC unless it names a zone).",
)
@click.option("--from", "hour_from", type=Hour(), help="The first hour; a date is its midnight.")
@click.option(
    "--to",
    "hour_to",
    type=Hour(is_end=True),
    help="The first hour no longer wanted; a date is its midnight, as it begins.",
)
@click.option("--src-app", multiple=True, metavar="NAME", help="Only this source; repeatable.")
@click.option("--dest-app", multiple=True, metavar="NAME", help="Only this target; repeatable.")
@click.option("--vpc-id", multiple=True, metavar="NAME", help="Only this VPC; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many rows.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "ndjson", "csv"]),
    default="table",
    show_default=True,
    help=f"A table has at most {TABLE_ROWS_DEFAULT:,} rows unless --limit says more.",
)
def query(
    url: str,
    hour: int | None,
    hour_from: int | None,
    hour_to: int | None,
    src_app: tuple[str, ...],
    dest_app: tuple[str, ...],
    vpc_id: tuple[str, ...],
    limit: int | None,
    form: str,
) -> None:
    """Ask a running flowd who talked to whom, and how much."""
    parameters = []
    if hour is not None and hour_from is None and hour_to is None:
        parameters.append(("hour", str(hour)))
    elif hour is None and hour_from is not None and hour_to is not None:
        parameters += [("from", str(hour_from)), ("to", str(hour_to))]
    else:
        raise click.UsageError("give either --hour, or both --from and --to")
    parameters += [("src_app", name) for name in src_app]
    parameters += [("dest_app", name) for name in dest_app]
    parameters += [("vpc_id", name) for name in vpc_id]
    if form == "table":
        limit = limit or TABLE_ROWS_DEFAULT
    table: list[bytes] = []
    chunk = b"\n"
    for answer in ask_pages(url, parameters, limit, "json" if form == "table" else form):
        for chunk in answer.content:
            if form == "table":
                table.append(chunk)
            else:
                click.echo(chunk, nl=False)
    if form == "table":
        _print_table(decode_rows(url, b"".join(table)))
    elif not chunk.endswith(b"\n"):
        click.echo()
    if answer.cursor is not None:
        click.echo(f"flowd: the first {limit:,} rows; there are more (--limit)", err=True)


def _print_table(rows: list[AnsweredRow]) -> None:
    # Imported here because it takes 0.2 s, which no other command needs to wait.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(caption="1 row" if len(rows) == 1 else f"{len(rows):,} rows")
    table.add_column("hour", justify="right", no_wrap=True)
    for name in ("vpc_id", "src_app", "dest_app"):
        table.add_column(name, overflow="fold")
    for name in ("bytes_tx", "bytes_rx"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = (str(row.hour), row.vpc_id, row.src_app, row.dest_app)
        sums = (f"{row.bytes_tx:,}", f"{row.bytes_rx:,}")
        table.add_row(*(Text(escape_control_characters(cell)) for cell in (*cells, *sums)))
    # What is read by a program is never folded.
    console = Console(width=None if sys.stdout.isatty() else 2_000, highlight=False)
    console.print(table)


def _tell_start(config: Config, data: DataDirectory, kernel: str, *, is_loopback: bool) -> None:
    log.info(
        "starting",
        version=__version__,
        data_dir=str(data.path),
        shards=data.identity.shards,
        routers=config.routers,
        kernel=kernel,
    )
    if config.kernel == "auto" and kernel == "reference":
        log.info("kernel_not_built", missing="native", used="reference")
    if not is_loopback:
        log.warning("insecure", listen=config.listen, reason="any client may read and write")


def _raise_open_files_limit() -> None:
    """Take all the descriptors that the system allows; the children inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _complain(message: str, status: int) -> int:
    click.echo(f"flowd: {escape_control_characters(message)}", err=True)
    return status
