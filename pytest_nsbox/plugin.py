"""The plugin: options, marker, fixture and hooks. No engine; that is imported when a test wants it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator
from typing import TYPE_CHECKING, Literal

import pytest

from pytest_nsbox.options import KEYS, OptionError, SandboxOptions, from_ini, merge
from pytest_nsbox.sandbox.belongings import Belongings

if TYPE_CHECKING:
    from pytest_nsbox.inside import Sandbox
    from pytest_nsbox.run.controller import Controller
    from pytest_nsbox.sandbox.client import Client

MODES = ("marked", "all", "off")
UNAVAILABLE = ("error", "skip", "run")
HUGE_PAGES = ("auto", "always", "never")
FORK_AHEAD = ("auto", "never")
DEBUG = ("timing",)
DEGRADABLE = ("proc", "ipc", "uts", "network")

# What nsbox is to do in this run; only where the plugin is configured.
settings_key = pytest.StashKey["Settings"]()
# What pytest and its tests have made in the host's /tmp, since a conftest may have.
belongings_key = pytest.StashKey[Belongings]()
# An item's options, or what is wrong with them.
options_key = pytest.StashKey["SandboxOptions | OptionError | None"]()


class Settings:
    """What the command line and the ini-file say."""

    def __init__(self, config: pytest.Config) -> None:
        self.mode = _choice(config, "nsbox", MODES, "marked")
        fallback = "error" if sys.platform == "linux" else "skip"
        self.unavailable = _choice(config, "nsbox_unavailable", UNAVAILABLE, fallback)
        try:
            self.defaults = from_ini(config.getini)
        except OptionError as error:
            raise pytest.UsageError(str(error)) from None
        self.jobs = _jobs(config)
        self.huge_pages = _choice(config, "nsbox_huge_pages", HUGE_PAGES, "auto")
        self.fork_ahead = _choice(config, "nsbox_fork_ahead", FORK_AHEAD, "auto")
        self.degrade = _degrade(config)
        self.client: Client | None = None
        self.controller: Controller | None = None

    def options(self, item: pytest.Item) -> SandboxOptions | OptionError | None:
        """The item's options; None where it is to run bare."""
        found = item.stash.get(options_key, "unknown")
        if found == "unknown":
            found = item.stash[options_key] = self._read_options(item)
        return found  # type: ignore[return-value]

    def _read_options(self, item: pytest.Item) -> SandboxOptions | OptionError | None:
        markers = list(item.iter_markers("sandbox"))  # the closest first
        asks = bool(markers) or "sandbox" in getattr(item, "fixturenames", ())
        if self.mode == "off" or (self.mode == "marked" and not asks):
            return None
        try:
            for marker in markers:
                if marker.args:
                    raise OptionError(
                        f"the sandbox marker takes keywords only, not {marker.args[0]!r}; "
                        f"allowed are {', '.join(KEYS)}"
                    )
            given = [marker.kwargs for marker in reversed(markers)]
            # The closest conftest is asked first, and what comes last counts.
            given += reversed(item.ihook.pytest_nsbox_options(item=item))
            return merge(self.defaults, given)
        except OptionError as error:
            return OptionError(f"{item.nodeid}: {error}")


def _choice(config: pytest.Config, name: str, allowed: tuple[str, ...], default: str) -> str:
    """A setting of the command line, else of the ini-file."""
    value = config.getoption(name, None) or config.getini(name) or default
    _check(name, value, allowed)
    return str(value)


def _check(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise pytest.UsageError(
            f"{name} = {value!r} is not allowed; choose from {', '.join(allowed)}"
        )


def _jobs(config: pytest.Config) -> int:
    """How many sandboxed tests may run at once."""
    value = config.getoption("nsbox_jobs") or config.getini("nsbox_jobs") or "1"
    if value == "auto":
        # Under xdist the processors are shared by its workers.
        workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
        return max(1, len(os.sched_getaffinity(0)) // workers)
    if not str(value).isdecimal() or not int(value):
        raise pytest.UsageError(
            f"nsbox_jobs = {value!r} is not allowed; write a number from 1, or auto"
        )
    return int(value)


def _degrade(config: pytest.Config) -> list[str]:
    """The parts that a sandbox may do without."""
    found: list[str] = config.getini("nsbox_degrade")
    for part in found:
        _check("nsbox_degrade", part, DEGRADABLE)
    return found


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    from pytest_nsbox import hookspecs

    pluginmanager.add_hookspecs(hookspecs)
    # Its assertions are rewritten in all of an installed plugin, which an import does if it is the
    # first after the installation: 0.1 s here, for modules that make none.
    getattr(pluginmanager.rewrite_hook, "_must_rewrite", set()).discard("pytest_nsbox")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("nsbox", "sandboxes (pytest-nsbox)")
    group.addoption(
        "--nsbox",
        choices=MODES,
        help="Which tests run in a sandbox: those marked (default), all, or none",
    )
    group.addoption(
        "--nsbox-unavailable",
        choices=UNAVAILABLE,
        help="Where the machine refuses a sandbox, its tests are an error (default on Linux), "
        "are skipped (default elsewhere), or run without",
    )
    group.addoption(
        "--nsbox-jobs",
        metavar="N|auto",
        help="How many sandboxed tests may run at once (default 1); auto: one for each processor",
    )
    group.addoption(
        "--nsbox-debug",
        choices=DEBUG,
        help="timing: print at the end where a sandboxed test's milliseconds went",
    )
    parser.addini("nsbox", "Default of --nsbox")
    parser.addini("nsbox_jobs", "Default of --nsbox-jobs")
    parser.addini(
        "nsbox_huge_pages",
        "Whether pytest's memory is put into huge pages before the first sandboxed test, which makes "
        "forks of a big process fast: auto (where it pays), always or never",
    )
    parser.addini(
        "nsbox_fork_ahead",
        "Whether the process of a sandboxed test may be forked before its turn: auto or never",
    )
    parser.addini("nsbox_unavailable", "Default of --nsbox-unavailable")
    parser.addini(
        "nsbox_degrade",
        f"What a sandbox may do without where the machine refuses it: {', '.join(DEGRADABLE)}",
        "args",
    )
    for key in KEYS.values():
        parser.addini(
            f"nsbox_{key.name}", f"Default of sandbox({key.name}=...): {key.help}", key.ini_type
        )


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    early_config.stash[belongings_key] = belongings = Belongings()
    belongings.begin()  # by conftests and plugins, until the session has started


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.stash[belongings_key].end()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    belongings = collector.config.stash[belongings_key]
    belongings.begin()  # by a module that is imported
    try:
        return (yield)
    finally:
        belongings.end()


def pytest_configure(config: pytest.Config) -> None:
    if belongings_key not in config.stash:  # for a conftest has loaded us
        pytest_load_initial_conftests(config)
    keys = ", ".join(f"{name}=..." for name in KEYS)
    config.addinivalue_line("markers", f"sandbox({keys}): run the test in a sandbox of its own")
    config.stash[settings_key] = Settings(config)


def pytest_report_header(config: pytest.Config) -> str | None:
    settings = config.stash[settings_key]
    said = [merge(settings.defaults, []).describe()]
    if settings.jobs > 1:
        said.append(f"jobs={settings.jobs}")
    if settings.degrade:
        said.append(f"degrade={' '.join(settings.degrade)}")
    if settings.mode == "marked" and not any(said):
        return None
    return ", ".join([f"nsbox: {settings.mode}", *filter(None, said)])


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Start the supervisor while tests are collected, where all of them are to be sandboxed."""
    config = session.config
    settings = config.stash[settings_key]
    distributes = config.pluginmanager.hasplugin("dsession")  # to xdist's workers
    if settings.mode == "all" and not (config.option.collectonly or distributes):
        _start_supervisor(config, settings)


def _start_supervisor(config: pytest.Config, settings: Settings) -> None:
    """Start it, if there is none: it takes longer to be ready than our own imports."""
    if settings.client is None and sys.platform == "linux":
        from pytest_nsbox.sandbox.client import Client, SandboxError

        settings.client = Client(settings.degrade)
        config.add_cleanup(settings.client.stop)
        with contextlib.suppress(SandboxError):  # whoever acquires a sandbox will be told
            settings.client.start()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Be ready to run what is to be sandboxed, if anything is."""
    config = session.config
    settings = config.stash[settings_key]
    found = [settings.options(item) for item in session.items] if settings.mode != "off" else []
    if config.option.collectonly:
        errors = [str(options) for options in found if isinstance(options, OptionError)]
        if errors:
            raise pytest.UsageError(*errors)
        return
    many = sum(isinstance(options, SandboxOptions) for options in found)
    if many:
        _start_supervisor(config, settings)
    if many and settings.client is not None:
        from pytest_nsbox.run import timing
        from pytest_nsbox.run.controller import Controller

        controller = Controller(
            config,
            settings.client,
            settings.options,
            settings.unavailable,
            config.stash[belongings_key],
            settings.jobs,
            settings.huge_pages,
            settings.fork_ahead,
        )
        settings.controller = controller
        controller.remaining = many
        if config.getoption("nsbox_debug") == "timing":
            timing.switch_on(config)
        config.add_cleanup(controller.stop)
        controller.start()
        if settings.unavailable == "run":
            _warn_of_bare_tests(config, controller)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    # The innermost: whoever reads at the end of the loop what tests have left (pytest-cov does)
    # is to find it.
    controller = session.config.stash[settings_key].controller
    if controller is not None:
        controller.begin()
    try:
        result = yield
    except BaseException as error:
        if controller is not None:
            controller.settle(error)
        raise
    if controller is not None:
        controller.settle()
        # As the loop would have, had it waited for the last of them.
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
    return result


def _warn_of_bare_tests(config: pytest.Config, controller: Controller) -> None:
    """Say it before they run, for whom that would be a danger."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is not None and (refusal := controller.refusal()):
        reporter.write_line(f"nsbox: tests run WITHOUT a sandbox: {refusal}", yellow=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Literal[True] | None:
    # Not a wrapper: those of others (warnings, faulthandler, pytest-timeout) stay around us.
    controller = item.config.stash[settings_key].controller
    return None if controller is None else controller.protocol(item, nextitem)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    item.config.stash[belongings_key].end()  # of a setup that was here


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    settings = item.config.stash[settings_key]
    options = settings.options(item)
    if isinstance(options, OptionError):
        pytest.fail(str(options), pytrace=False)
    if options is not None and sys.platform != "linux":
        reason = f"a sandbox needs Linux, this is {sys.platform}"
        if settings.unavailable == "skip":
            pytest.skip(reason)
        elif settings.unavailable == "error":
            pytest.fail(reason, pytrace=False)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    controller = config.stash[settings_key].controller
    notes = controller.notes() if controller else []
    if notes:
        terminalreporter.section("nsbox")
        for note in notes:
            terminalreporter.line(note)
    if controller is not None and config.getoption("nsbox_debug") == "timing":
        from pytest_nsbox.run import timing

        if (spent := timing.of(config)) is not None:
            terminalreporter.section("nsbox: timing")
            for line in spent.lines():
                terminalreporter.line(line)


@pytest.fixture
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    """The sandbox that the test runs in (and in which it is put by asking for this fixture)."""
    from pytest_nsbox.inside import Sandbox

    options = request.config.stash[settings_key].options(request.node)
    return Sandbox(options if isinstance(options, SandboxOptions) else SandboxOptions())
