from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import threading

import pytest

from sampan.linux.namespaces import (
    CLONE_NEWNET,
    CLONE_NEWUSER,
    IdMaps,
    IdRange,
    call_in_netns,
    kind_of_namespace,
    maps_of,
    maps_of_userns,
    new_netns,
    new_userns,
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs CAP_SYS_ADMIN")


def own_network() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


@needs_root
def test_network_namespace_is_reached_and_left() -> None:
    before = own_network()
    fd = new_netns()
    try:
        assert call_in_netns(fd, own_network) == os.fstat(fd).st_ino != before
        assert own_network() == before
        # A socket stays where it was made: the new namespace's loopback is down.
        with call_in_netns(fd, socket.socket) as made, pytest.raises(OSError, match="unreachable"):
            made.connect(("127.0.0.1", 9))
    finally:
        os.close(fd)


@needs_root
def test_error_in_another_namespace_reaches_the_caller() -> None:
    fd = new_netns()
    try:
        with pytest.raises(ZeroDivisionError):
            call_in_netns(fd, lambda: 1 // 0)
    finally:
        os.close(fd)


@needs_root
def test_a_visit_keeps_no_namespace_alive() -> None:
    fd = new_netns()
    inode = os.fstat(fd).st_ino
    call_in_netns(fd, own_network)
    os.close(fd)
    there = {os.stat(f"/proc/self/task/{task}/ns/net").st_ino for task in os.listdir("/proc/self/task")}
    assert inode not in there


@needs_root
def test_a_visit_needs_no_other_thread_and_one_that_fails_comes_back() -> None:
    before, fd = own_network(), new_netns()
    try:
        assert call_in_netns(fd, threading.get_ident) == threading.get_ident()
        with pytest.raises(OSError, match="Bad file descriptor"):
            call_in_netns(-1, own_network)
        assert own_network() == before
    finally:
        os.close(fd)


@needs_root
def test_a_visit_from_a_visit_and_in_a_forked_child() -> None:
    one, two = new_netns(), new_netns()
    try:
        there_and_back = call_in_netns(one, lambda: (call_in_netns(two, own_network), own_network()))
        assert there_and_back == (os.fstat(two).st_ino, os.fstat(one).st_ino)
        pid = os.fork()
        if pid == 0:
            os._exit(call_in_netns(one, own_network) != os.fstat(one).st_ino)  # 0 if all is well
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    finally:
        os.close(one)
        os.close(two)


NS_GET_USERNS = 0xB701
"""linux/nsfs.h"""


@needs_root
def test_a_network_namespace_belongs_to_the_user_namespace_it_is_made_in() -> None:
    ids = (IdRange(0, 100_000, 65_536),)
    userns = new_userns(ids, ids)
    try:
        netns = new_netns(userns)
        owner = fcntl.ioctl(netns, NS_GET_USERNS)
        assert os.fstat(owner).st_ino == os.fstat(userns).st_ino != os.stat("/proc/self/ns/user").st_ino
        assert call_in_netns(netns, own_network) == os.fstat(netns).st_ino
        os.close(owner)
        os.close(netns)
    finally:
        os.close(userns)
    other = os.open("/proc/self/ns/uts", os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="make a network namespace") as failed:
            new_netns(other)
        assert failed.value.errno == errno.EINVAL
    finally:
        os.close(other)


@pytest.mark.parametrize("room", [0, 1, 2])
def test_a_namespace_for_which_there_is_no_descriptor_leaves_none(room: int) -> None:
    ids = (IdRange(0, 100_000, 65_536),)
    before = os.listdir("/proc/self/fd")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = min(set(range(soft)) - set(map(int, before)))
    resource.setrlimit(resource.RLIMIT_NOFILE, (low + room, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            new_userns(ids, ids)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir("/proc/self/fd") == before


def test_what_an_id_inside_is_outside() -> None:
    maps = IdMaps((IdRange(0, 1000, 10), IdRange(10, 5000, 1)), (IdRange(0, 7, 1),))
    assert [maps.uid(inside) for inside in (0, 9, 10, 11, -1)] == [1000, 1009, 5000, -1, -1]
    assert [maps.gid(inside) for inside in (0, 1)] == [7, -1]


@needs_root
def test_maps_are_read_from_a_descriptor_as_from_a_process() -> None:
    uids, gids = (IdRange(0, 100000, 5), IdRange(7, 200000, 1)), (IdRange(0, 300000, 65536),)
    userns = new_userns(uids, gids)
    try:
        assert maps_of_userns(userns) == IdMaps(uids, gids)
    finally:
        os.close(userns)
    assert maps_of("self").uid(0) == 0


def test_the_kind_of_a_namespace_is_the_kernels_word() -> None:
    kinds = {}
    for place in ("/proc/self/ns/net", "/proc/self/ns/user", "/etc/passwd", "/dev/null"):
        fd = os.open(place, os.O_RDONLY)
        kinds[place] = kind_of_namespace(fd)
        os.close(fd)
    assert list(kinds.values()) == [CLONE_NEWNET, CLONE_NEWUSER, 0, 0]
