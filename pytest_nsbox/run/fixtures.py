"""Which process sets a fixture up and tears it down: the SetupState of both.

The rule that keeps both honest: *whoever set a fixture up tears it down*.  The controller sets up the
collectors and the broad-scoped fixtures, which every test process inherits by the fork; a test process
sets up the rest, on a SetupState that knows the same active nodes and none of the controller's
finalizers.  The controller keeps its own state and never learns of the test process's.

Where a test process runs all items of a node, broad-scoped fixtures are in this sense those that outlive
the node; ``node`` is that, or None where it runs one item.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from _pytest.fixtures import get_scope_package
from _pytest.outcomes import Exit
from _pytest.runner import SetupState
from _pytest.scope import Scope
from _pytest.threadexception import thread_exceptions
from _pytest.unraisableexception import unraisable_exceptions

from pytest_nsbox.run.owners import is_of

# Whose implementations of the hooks of setup and teardown make the controller's share of them; the
# others' run once, in the test process.
_SHARED = {
    # Exceptions of threads and __del__ are told of when the setup is whole: by the test process.
    "setup": {"runner", "capturemanager", "logging-plugin"},
    "teardown": {
        "runner",
        "capturemanager",
        "logging-plugin",
        "unraisableexception",
        "threadexception",
    },
}


def shared_hooks(config: pytest.Config) -> dict[str, Callable[..., Any]]:
    """``pytest_runtest_setup`` and ``_teardown`` as they are in the controller's share of them."""
    plugins = config.pluginmanager
    return {
        when: plugins.subset_hook_caller(
            f"pytest_runtest_{when}",
            [plugin for name, plugin in plugins.list_name_plugin() if plugin and name not in names],
        )
        for when, names in _SHARED.items()
    }


def hooks_may_prevent_setup(item: pytest.Item, node: pytest.Collector | None = None) -> bool:
    """Whether a hook may skip or fail the item before broad fixtures are set up that are not yet.

    Those are set up in the controller, and such hooks run in the test process.
    """
    foreign = any(
        not is_of(implementation.function, "_pytest.", "pytest_nsbox.")
        for implementation in item.config.hook.pytest_runtest_setup.get_hookimpls()
    )
    return foreign and any(_is_new(item, name) for name in broad_fixtures(item, node))


def _is_new(item: Any, name: str) -> bool:
    """Whether the fixture would be set up, and is not there with the parameter."""
    definition = _definition(item, name)
    cached = definition.cached_result if definition is not None else None
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if cached is None or cached[2] is not None:  # not there, or it has failed and will again
        return True
    return name in params and params[name] is not cached[1]


@contextlib.contextmanager
def broad_only(
    item: pytest.Item, node: pytest.Collector | None = None, others: Sequence[pytest.Item] = ()
) -> Iterator[None]:
    """While this lasts, setting the item up sets up its collectors and broad-scoped fixtures."""
    state: Any = item.session._setupstate
    state.setup = partial(set_up_broad, node=node, others=others)
    try:
        yield
    finally:
        del state.setup  # the class's again


@contextlib.contextmanager
def before_teardown(item: pytest.Item, act: Callable[[], None]) -> Iterator[None]:
    """While this lasts, something else happens before anything is torn down."""
    state: Any = item.session._setupstate

    def teardown_exact(nextitem: pytest.Item | None) -> None:
        try:
            act()
        finally:
            SetupState.teardown_exact(state, nextitem)

    state.teardown_exact = teardown_exact
    try:
        yield
    finally:
        del state.teardown_exact  # the class's again


# By which a worker's processes can be told from those of another one, which runs the same tests.
_XDIST = ("PYTEST_XDIST_TESTRUNUID", "PYTEST_XDIST_WORKER")


def set_up_broad(
    item: pytest.Item, node: pytest.Collector | None = None, others: Sequence[pytest.Item] = ()
) -> None:
    """Set up the item's collectors and its broad-scoped fixtures; not the item.

    Raises whatever they do; the item is then not active, and its collectors remember the exception.
    What only ``others`` of its node need is set up as well, and what that raises is theirs.
    """
    state: SetupState = item.session._setupstate
    assert item.parent is not None
    item.ihook.pytest_nsbox_setup(item=item)
    chain = item.listchain()
    # Those of the node's that are active already are the controller's as well.
    many = len(chain) - 1 if node is None else max(chain.index(node), len(state.stack))
    if many:
        # setup() takes an Item, but asks only for its listchain().
        SetupState.setup(state, chain[many - 1])  # type: ignore[arg-type]
    activate(item)
    names = broad_fixtures(item, node)
    for name in names:
        item._request.getfixturevalue(name)  # type: ignore[attr-defined]
    known = {_definition(item, name) for name in names}
    for other in others:
        new = [n for n in broad_fixtures(other, node) if _definition(other, n) not in known]
        if new:
            known.update(_definition(other, name) for name in new)
            del state.stack[item]
            _set_up_for(other, new)
            activate(item)


def activate(item: pytest.Item) -> None:
    """Make the item an active node, whose request may resolve fixtures (checked since pytest 9.1).

    Without its teardown: it is the test process that runs ``item.setup()``.
    """
    item.session._setupstate.stack[item] = ([], None)


def _set_up_for(item: Any, names: Sequence[str]) -> None:
    """Set fixtures up before the turn of the item that asks for them; it will hear what they raise."""
    activate(item)
    item._initrequest()
    try:
        for name in names:
            item._request.getfixturevalue(name)
    except (Exit, KeyboardInterrupt):
        raise
    except (Exception, pytest.skip.Exception, pytest.fail.Exception):
        pass  # the fixture remembers it
    finally:
        del item.session._setupstate.stack[item]
        item._initrequest()  # which begins anew


def is_set_up(
    item: Any, node: pytest.Collector | None = None, others: Sequence[pytest.Item] = ()
) -> bool:
    """Whether nothing is left to do for the item's collectors and broad-scoped fixtures.

    Nor for those that ``others`` of its node need.  A collector that does nothing when it is set up
    need not be active: see ``enter``.
    """
    stack = item.session._setupstate.stack
    is_outside = True
    for each in item.listchain()[:-1]:
        is_outside &= each is not node
        if each in stack:
            if stack[each][1] is not None:
                return False
        elif is_outside and not _inherits(each, "setup"):
            return False
    return not any(
        _is_new(each, name) for each in (item, *others) for name in broad_fixtures(each, node)
    )


def enter(item: pytest.Item, node: pytest.Collector | None = None) -> None:
    """Make an item for which ``is_set_up`` an active node, with its collectors or those of the node."""
    state: SetupState = item.session._setupstate
    parent = item.parent if node is None else node.parent
    if parent is not None and parent not in state.stack:
        # setup() takes an Item, but asks only for its listchain().
        SetupState.setup(state, parent)  # type: ignore[arg-type]
    activate(item)


def tears_down(session: pytest.Session, nextitem: pytest.Item | None) -> bool:
    """Whether anything is torn down before the next item: a fixture, or a collector that wants it."""
    needed = set(nextitem.listchain()) if nextitem is not None else set()
    return any(
        len(finalizers) > 1 or not _inherits(node, "teardown")
        for node, (finalizers, _) in session._setupstate.stack.items()
        if node not in needed and not isinstance(node, pytest.Item)
    )


def _inherits(node: Any, name: str) -> bool:
    """Whether a collector's setup or teardown is that of every node, which does nothing."""
    return getattr(type(node), name) is getattr(pytest.Collector, name) and name not in vars(node)


def leave(session: pytest.Session, nextitem: pytest.Item | None) -> None:
    """Have the nodes that the next item does not share no longer active."""
    session._setupstate.teardown_exact(nextitem)


_LATE: tuple[Any, ...] = (unraisable_exceptions, thread_exceptions)


def has_late_exceptions(config: pytest.Config) -> bool:
    """Whether a thread of the controller's, or its garbage, has raised something untold."""
    return any(config.stash.get(key, ()) for key in _LATE)


def hand_over_late_exceptions(config: pytest.Config) -> None:
    """Forget those of the setup of broad fixtures, of which the test process tells when its ends."""
    for key in _LATE:
        if key in config.stash:
            config.stash[key].clear()


def generation(session: pytest.Session) -> object:
    """A value that is another one after anything of collectors or fixtures was set up or torn down."""
    return [
        (node, len(finalizers))
        for node, (finalizers, failure) in session._setupstate.stack.items()
        if not isinstance(node, pytest.Item)
        and (len(finalizers) > 1 or failure is not None or not _inherits(node, "setup"))
    ]


def is_started_by(session: pytest.Session, environment: Mapping[str, str]) -> bool:
    """Whether who was executed with that environment has it from a test of this session."""
    test, _, _ = environment.get("PYTEST_CURRENT_TEST", "").rpartition(" (")
    return all(environment.get(name) == os.environ.get(name) for name in _XDIST) and any(
        item.nodeid == test for item in session.items
    )


def broad_fixtures(item: pytest.Item, node: pytest.Collector | None = None) -> list[str]:
    """The names of the fixtures that outlive the item, broadest first (as the closure is sorted).

    With ``node``, those that outlive that.
    """
    shared: dict[str, bool] = {}
    for answer in reversed(item.ihook.pytest_nsbox_fixtures(item=item)):  # the closest counts
        shared.update(answer)
    known = [
        name
        for name in getattr(item, "fixturenames", ())
        if _scope_of(item, name) is not Scope.Function and _outlives(item, name, node)
    ]
    others = [
        name
        for name, is_shared in shared.items()
        if is_shared and name not in known and _outlives(item, name, node)
    ]
    return [name for name in known if shared.get(name, True)] + others


def wider_params(item: Any, node: pytest.Collector) -> dict[str, int]:
    """The parameters of fixtures that outlive the node, by the identity by which pytest tells them."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return {
        name: id(value)
        for name, value in params.items()
        if _scope_of(item, name) is not Scope.Function and _outlives(item, name, node)
    }


def _outlives(item: Any, name: str, node: pytest.Collector | None) -> bool:
    """Whether what finalizes the fixture, which has a broad scope, is above the node."""
    if node is None:
        return True
    scope = _scope_of(item, name)
    if scope is Scope.Class:
        owner = item.getparent(pytest.Class)
    elif scope is Scope.Module:
        owner = item.getparent(pytest.Module)
    elif scope is Scope.Package:
        owner = get_scope_package(item, _definition(item, name))
    else:
        owner = item.session
    return owner is not node and owner in node.listchain()


def _definition(item: Any, name: str) -> Any:
    """The definition of the fixture that the item gets by that name; None: there is none."""
    definitions = item._fixtureinfo.name2fixturedefs.get(name)
    if not definitions:  # of one that only pytest_nsbox_fixtures names
        definitions = item.session._fixturemanager.getfixturedefs(name, item)
    return definitions[-1] if definitions else None


def _scope_of(item: Any, name: str) -> Scope:
    """The scope that decides which node finalizes the fixture, as ``_get_active_fixturedef`` does."""
    definition = _definition(item, name)
    if definition is None:  # "request"
        return Scope.Function
    callspec = getattr(item, "callspec", None)
    if callspec is not None and name in callspec.params:
        scope: Scope = callspec._arg2scope[name]  # parametrize(scope=…) overrides the fixture's
    else:
        scope = definition._scope
    if scope is Scope.Class and item.getparent(pytest.Class) is None:
        return Scope.Function  # SubRequest falls back to the item itself
    return scope


class TestProcessState(SetupState):
    """The controller's active nodes, none of the controller's finalizers."""

    __test__ = False

    def __init__(self, controllers: SetupState, on_setup: Callable[[], None]) -> None:
        super().__init__()
        self.on_setup = on_setup
        self.goes_on = False  # with another item that shares what is set up here
        self.stack = {
            node: ([], exc)
            for node, (_, exc) in controllers.stack.items()
            if not isinstance(node, pytest.Item)
        }

    def setup(self, item: pytest.Item) -> None:
        self.on_setup()  # here the controller's share would have been, bare
        super().setup(item)

    def begin_at(self, item: pytest.Item) -> None:
        """Let none be active that the item has not; those that it has besides do nothing."""
        needed = set(item.listchain())
        self.stack = {node: entry for node, entry in self.stack.items() if node in needed}

    def teardown_exact(self, nextitem: pytest.Item | None) -> None:
        # Whatever has a finalizer on this stack was set up in this process: all of it goes with its
        # last item, whether runtestprotocol() passed the real nextitem or, under -x, None.
        super().teardown_exact(nextitem if self.goes_on else None)


def use_test_process_state(
    session: pytest.Session, on_setup: Callable[[], None]
) -> TestProcessState:
    """In a test process: stop knowing what the controller will tear down."""
    state = TestProcessState(session._setupstate, on_setup)
    session._setupstate = state
    return state
