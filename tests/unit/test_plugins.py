"""Every rule of the loader, with entry points made up for the test."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from sampan import plugins
from sampan.api.driver import Probe
from sampan.api.errors import InvalidArgument, Unavailable
from sampan.api.hookspecs import hookimpl
from sampan.api.network import NetworkDriver
from sampan.api.volume import VolumeDriver


class FakeDistribution:
    def __init__(self, name: str) -> None:
        self.name = name
        self.version = "1.0"


def entry_point(name: str, module: str, distribution: str = "") -> EntryPoint:
    made = EntryPoint(name, module, plugins.hookspecs.PROJECT)
    vars(made).update(dist=FakeDistribution(distribution or f"dist-{name}"))
    return made


def driver_class(name: str, **attributes: Any) -> type[VolumeDriver]:
    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    body: dict[str, Any] = dict.fromkeys(VolumeDriver.__abstractmethods__, nothing)
    body |= {"name": name, "probe": classmethod(lambda cls, root: Probe(True)), **attributes}
    return type(f"Driver{name.title()}", (VolumeDriver,), body)


@pytest.fixture
def make_plugin() -> Iterator[Any]:
    made = []

    def make(module_name: str, *drivers: type[Any], **functions: Any) -> None:
        module = types.ModuleType(module_name)
        if drivers:

            def sampan_register_volume_drivers() -> list[type[Any]]:
                return list(drivers)

            functions["sampan_register_volume_drivers"] = hookimpl(sampan_register_volume_drivers)
        vars(module).update(functions)
        sys.modules[module_name] = module
        made.append(module_name)

    yield make
    for name in made:
        del sys.modules[name]


def test_our_own_drivers_come_through_the_same_door() -> None:
    registry = plugins.discover()
    assert registry.broken == []
    assert registry.names("storage") == ["btrfs", "overlayfs", "vfs"]
    assert registry.names("network") == ["bridge", "host", "macvlan", "none", "vxlan"]
    assert {"native", "runc"} <= set(registry.names("runtime"))
    assert registry.names("log") == ["json-file"]
    assert registry.names("volume") == ["local"]
    assert registry.names("ipam") == ["default"]


def test_a_plugin_that_does_not_import_breaks_nothing_else(make_plugin: Any) -> None:
    make_plugin("good_one", driver_class("good"))
    registry = plugins.discover([entry_point("bad", "no_such_module_here"), entry_point("good", "good_one")], [])
    assert registry.names("volume") == ["good"]
    assert [(b.plugin, b.distribution) for b in registry.broken] == [("bad", "dist-bad")]
    assert "no_such_module_here" in registry.broken[0].reason


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(3)])
def test_a_registration_that_raises_is_reported(make_plugin: Any, error: BaseException) -> None:
    def sampan_register_volume_drivers() -> list[type[Any]]:
        raise error

    make_plugin("raising", sampan_register_volume_drivers=hookimpl(sampan_register_volume_drivers))
    registry = plugins.discover([entry_point("raising", "raising")], [])
    assert registry.names("volume") == []
    assert type(error).__name__ in registry.broken[0].reason


def test_a_driver_name_taken_twice_names_both_distributions(make_plugin: Any) -> None:
    make_plugin("first", driver_class("same"))
    make_plugin("second", driver_class("same"))
    registry = plugins.discover([entry_point("a", "first"), entry_point("b", "second")], [])
    with pytest.raises(Unavailable, match=r"dist-a.*dist-b"):
        registry.driver("volume", "same", VolumeDriver)
    assert "dist-a" in registry.broken[0].reason


def test_an_entry_point_name_taken_twice_names_both_distributions(make_plugin: Any) -> None:
    make_plugin("first", driver_class("one"))
    make_plugin("second", driver_class("two"))
    registry = plugins.discover([entry_point("a", "first", "dist-x"), entry_point("a", "second", "dist-y")], [])
    assert registry.names("volume") == ["one"]
    assert "dist-x" in registry.broken[0].reason
    assert "dist-y" in registry.broken[0].reason


def test_a_misspelt_hook_is_reported(make_plugin: Any) -> None:
    def sampan_register_volume_driver() -> list[type[Any]]:
        return []

    make_plugin("misspelt", driver_class("ok"), sampan_register_volume_driver=hookimpl(sampan_register_volume_driver))
    registry = plugins.discover([entry_point("m", "misspelt")], [])
    assert registry.names("volume") == ["ok"]
    assert "sampan_register_volume_driver" in registry.broken[0].reason


def test_an_unmarked_function_is_no_hook(make_plugin: Any) -> None:
    make_plugin("unmarked", sampan_register_volume_drivers=lambda: [driver_class("x")])
    assert plugins.discover([entry_point("u", "unmarked")], []).names("volume") == []


@pytest.mark.parametrize("version", [(2, 0), (0, 9), (1, 99)])
def test_a_driver_of_another_contract_is_refused(make_plugin: Any, version: tuple[int, int]) -> None:
    make_plugin("other", driver_class("other", api_version=version))
    registry = plugins.discover([entry_point("o", "other")], [])
    assert registry.names("volume") == []
    assert f"{version[0]}.{version[1]}" in registry.broken[0].reason


@pytest.mark.parametrize("unfit", [object, "not a class", driver_class("Bad Name"), driver_class("half", mount=VolumeDriver.mount)])
def test_what_is_no_driver_is_refused(make_plugin: Any, unfit: Any) -> None:
    make_plugin("unfit", unfit)
    registry = plugins.discover([entry_point("u", "unfit")], [])
    assert registry.names("volume") == []
    assert len(registry.broken) == 1


def test_disabled_plugins_are_not_imported(monkeypatch: pytest.MonkeyPatch, make_plugin: Any) -> None:
    make_plugin("wanted", driver_class("wanted"))
    monkeypatch.setenv("SAMPAN_DISABLED_PLUGINS", "off, other")
    registry = plugins.discover([entry_point("off", "no_such_module_here"), entry_point("on", "wanted")])
    assert registry.names("volume") == ["wanted"]
    assert registry.broken == []


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    registry = plugins.discover()
    with pytest.raises(InvalidArgument, match=r"unknown volume driver 'nfs': known ones are local"):
        registry.driver("volume", "nfs", VolumeDriver)


def test_a_missing_driver_that_is_known_elsewhere_comes_with_its_install_line(make_plugin: Any) -> None:
    registry = plugins.discover([], [])
    with pytest.raises(InvalidArgument, match=r"pip install 'sampan\[btrfs\]'"):
        registry.driver("storage", "btrfs", VolumeDriver)


def test_dockers_drivers_that_nobody_offers_are_answered_with_what_comes_nearest() -> None:
    registry = plugins.discover()
    for name, nearest in (("ipvlan", "macvlan"), ("overlay", "vxlan")):
        with pytest.raises(InvalidArgument, match=rf"unknown network driver '{name}': known ones are .*not built.*{nearest}"):
            registry.driver("network", name, NetworkDriver)


def choose(registry: plugins.Registry, **options: Any) -> str:
    defaults: dict[str, Any] = {"configured": None, "prior": None, "priority": ("bad", "good", "better")}
    cls, _ = plugins.choose(registry, "volume", VolumeDriver, lambda name: Path("/nonexistent"), **(defaults | options))
    return cls.name


def test_selection_goes_configured_then_prior_then_first_that_works(make_plugin: Any) -> None:
    def no(cls: Any, root: Path) -> Probe:
        return Probe(False, "no kernel for that")

    def raising(cls: Any, root: Path) -> Probe:
        raise OSError("surprise")

    make_plugin(
        "three", driver_class("bad", probe=classmethod(no)), driver_class("good"), driver_class("better"),
        driver_class("raises", probe=classmethod(raising)),
    )  # fmt: skip
    registry = plugins.discover([entry_point("t", "three")], [])
    assert choose(registry) == "good"
    assert choose(registry, prior="better") == "better"
    assert choose(registry, prior="better", configured="good") == "good"
    with pytest.raises(Unavailable, match=r"'bad' \(configured\) does not work here: no kernel for that"):
        choose(registry, configured="bad")
    with pytest.raises(Unavailable, match="used by this root before"):
        choose(registry, prior="bad")
    with pytest.raises(Unavailable, match="its probe failed: OSError: surprise"):
        choose(registry, configured="raises")
    with pytest.raises(Unavailable, match=r"bad: no kernel for that; unknown volume driver|bad: no kernel"):
        choose(registry, priority=("bad", "absent"))
