from __future__ import annotations

import os
from pathlib import Path

import pytest

from sampan.api.errors import Conflict, Forbidden, InvalidArgument, NotFound, SampanError, System
from sampan_runtime_oci.program import Program


def program(directory: Path, body: str) -> Program:
    """Make a program that is called as an OCI runtime is: `$2` is its log, `$5` the command."""
    script = directory / "runtime"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    return Program((str(script),), directory / "log.json")


@pytest.mark.parametrize(
    ("complaint", "error"),
    [
        ('runc create failed: unable to start container process: exec: "x": executable file not found in $PATH', NotFound),
        ('exec: "/x": stat /x: no such file or directory', NotFound),
        ('exec: "/x": permission denied', Forbidden),
        ('exec: "/etc": is a directory', Forbidden),
        ("executable file `x` not found in $PATH: No such file or directory", NotFound),
        ("open executable: Permission denied", Forbidden),
        ("container does not exist", NotFound),
        ("container not running", NotFound),
        ("cannot exec in a paused container (use --ignore-paused to override)", Conflict),
        ("container with given ID already exists", Conflict),
        ("invalid rlimit type: RLIMIT_X", InvalidArgument),
        ("writing file `devices.allow`: Invalid argument", System),
        ("mount something: no such file or directory", System),
    ],
)  # fmt: skip
def test_the_error_is_of_the_kind_that_the_log_tells(
    tmp_path: Path, complaint: str, error: type[SampanError]
) -> None:
    escaped = complaint.replace('"', '\\"')
    (tmp_path / "lines").write_text(
        f'{{"level":"warning","msg":"first"}}\n{{"level":"error","msg":"{escaped}"}}\n{{"level":"err'
    )
    failing = program(tmp_path, f'cp {tmp_path}/lines "$2"; exit 1')
    with pytest.raises(SampanError) as caught:
        failing.run("create", "id")
    assert type(caught.value) is error
    assert caught.value.message == f"OCI runtime create failed: {complaint}"
    assert not failing.log.exists()


def test_a_log_of_junk_gives_no_reason(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("[1]\n" + "[" * 100_000 + "\nnull\n")
    with pytest.raises(System, match="ended with 1 and gave no reason"):
        program(tmp_path, f'cp {tmp_path}/lines "$2"; exit 1').run("create", "id")


def test_a_failure_without_a_reason(tmp_path: Path) -> None:
    with pytest.raises(System, match="OCI runtime kill failed: .*/runtime ended with 3 and gave no reason"):
        program(tmp_path, "exit 3").run("kill", "id", "15")
    with pytest.raises(System, match="ended with -9"):
        program(tmp_path, "kill -9 $$").run("kill", "id", "15")


def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(System, match="run /no/such/runtime: No such file or directory: install it"):
        Program(("/no/such/runtime",), tmp_path / "log.json").run("start", "id")


def test_the_answer_and_the_streams(tmp_path: Path) -> None:
    assert program(tmp_path, 'echo "$1 $3 $4 $5 $6"; cat').ask("ps", "id") == b"--log --log-format json ps id\n"
    reader, writer = os.pipe()
    with os.fdopen(reader) as output:
        program(tmp_path, "echo to stdout; echo to stderr >&2").run("create", stdio=(-1, writer, writer))
        os.close(writer)
        assert output.read() == "to stdout\nto stderr\n"


def test_it_gets_no_other_descriptor_and_no_ignored_signal(tmp_path: Path) -> None:
    leaking = os.dup(0)
    os.set_inheritable(leaking, True)
    try:
        answer = program(tmp_path, "ls /proc/$$/fd; grep SigIgn /proc/$$/status").ask("ps")
    finally:
        os.close(leaking)
    *descriptors, _, ignored = answer.split()
    assert set(descriptors) <= {b"0", b"1", b"2", b"10", b"255"}  # the shell holds its script at the last ones
    assert int(ignored, 16) & 0x7FFFFFFF == 0


@pytest.mark.timeout(20)
def test_an_answer_is_larger_than_a_pipe(tmp_path: Path) -> None:
    """`ps` of a container with ten thousand processes: who only waits for its end waits for ever."""
    assert program(tmp_path, "head -c 1000000 /dev/zero").ask("ps") == bytes(1_000_000)
