"""TVM's RPC server in this process, without what its launcher needs; prints its port.

Run by the Python of this machine, or by one for ARM in an emulator.
"""

import socket
import sys

from tvm.rpc import server

listening = socket.socket()
listening.bind(("127.0.0.1", 0))
listening.listen(1)
port = listening.getsockname()[1]
sys.stdout.write(f"{port}\n")
sys.stdout.flush()
server._listen_loop(listening, port, "", None, None, None)
