"""The runtime suite: terminals."""

from __future__ import annotations

from sampan.api.runtime import RuntimeCapability
from sampan.testing.runtime_ground import PRINT_SIZE, Workshop, shell
from sampan.testing.selection import needs


class TerminalCases:
    """With a console a program has a terminal of its own."""

    def test_terminal(self, workshop: Workshop) -> None:
        """With a console the program has a terminal of its own as 0, 1, 2, of the size asked for."""
        script = f"tty; {PRINT_SIZE}; test -t 0 && test -t 1 && test -t 2 && echo tty; read line; stty size"
        size = {"height": 31, "width": 97}
        container = workshop.idle(workshop.spec(script, terminal=True, consoleSize=size))
        assert container.main.read_until(b"tty\r\n").split() == [b"/dev/pts/0", b"31", b"97", b"tty"]
        container.main.resize(50, 132)
        container.main.write(b"\n")
        output = container.main.finish()
        assert output.stdout.split() == [b"50", b"132"]
        assert output.code == 0

    def test_terminal_controls(self, workshop: Workshop) -> None:
        """It is the controlling terminal: ^C is a signal."""
        container = workshop.idle(
            workshop.spec("trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.01; done", terminal=True)
        )
        container.main.read_until(b"ready")
        container.main.write(b"\x03")
        assert container.main.finish().code == 9

    @needs(RuntimeCapability.EXEC)
    def test_exec_with_a_terminal(self, workshop: Workshop) -> None:
        """A further process has a terminal of its own."""
        size = {"height": 20, "width": 70}
        process = workshop.idle().start_exec(
            shell(f"tty; {PRINT_SIZE}; read line; stty size", terminal=True, consoleSize=size)
        )
        assert process.read_until(b"20 70\r\n").startswith(b"/dev/pts/")
        process.resize(21, 71)
        process.write(b"\n")
        assert process.finish().stdout.split() == [b"21", b"71"]
