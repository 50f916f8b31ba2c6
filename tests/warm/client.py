"""What tests start in place of Python: hands all that it was given to the server, and ends as the program ends.

It is what people would see of the program: signals sent to it go on to the program, and the exit status is the
program's. Knows no option of Python's. Imports next to nothing, since it is started hundreds of times.
"""

import _socket
import array
import os
import sys
from _signal import SIG_DFL, SIG_IGN, SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1, signal
from fcntl import ioctl
from marshal import dumps
from termios import TIOCNOTTY


def main() -> None:
    given = [descriptor for descriptor in range(64) if _is_open(descriptor)]
    leads = 0 in given and os.isatty(0) and os.getsid(0) == os.getpid()
    if leads:  # a terminal has one session: it is given up here, and the program takes it
        signal(SIGHUP, SIG_IGN)
        ioctl(0, TIOCNOTTY)
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    connection.connect(os.path.join(os.path.dirname(sys.argv[0]), "socket"))  # noqa: PTH118, PTH120 (pathlib is slow)
    for number in (SIGHUP, SIGINT, SIGTERM, SIGUSR1):
        signal(number, lambda number, _: connection.send(bytes([number])))
    request = dumps((sys.argv[1:], os.getcwd(), dict(os.environ), given, leads))  # noqa: PTH109
    descriptors = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array.array("i", given))] if given else []
    connection.sendmsg([len(request).to_bytes(4, "big")], descriptors)
    connection.sendall(request)
    for descriptor in given:
        os.close(descriptor)  # the other end of a pipe is to see it closed when the program closes it
    status = int.from_bytes(connection.recv(4), "big")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != SIGKILL:
            signal(number, SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


main()
