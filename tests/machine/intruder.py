"""Tries to reach what belongs to the user UID, and prints what was possible.

usage: intruder.py UID < PATHS
"""

import errno
import os
import socket
import sys

victim = int(sys.argv[1])
counts = {"path": 0, "socket": 0, "process": 0, "port": 0}


def tried(kind, what, act):
    """Prints what was possible. An object that has gone meanwhile proves nothing."""
    counts[kind] += 1
    try:
        act()
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ESRCH):
            return
        print(f"{kind} {what}: {error}")
        return
    print(f"{kind} {what}: possible")


def connect(address):
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(address)


def read(path):
    with open(path, "rb") as file:
        file.read(1)


def fetch(address, port):
    """Succeeds if the server says anything."""
    with socket.create_connection((address, port), timeout=20) as stream:
        stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
        if not stream.recv(1):
            raise PermissionError(errno.EACCES, "closed")


def listening():
    """TCP sockets of the user that listen (proc_net_tcp(5))."""
    for line in open("/proc/net/tcp").readlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[7]) == victim:
            address, port = fields[1].split(":")
            yield socket.inet_ntoa(bytes.fromhex(address)[::-1]), int(port, 16)


for path in sys.stdin.read().split("\0"):
    if path:
        tried("path", path, lambda: os.open(path, os.O_RDONLY | os.O_NONBLOCK))
        if not os.path.isdir(path):
            tried("path", path, lambda: os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        tried("path", path, lambda: os.rename(path, path + ".taken"))
        # Addresses of sockets are shorter than other paths (unix(7)).
        if len(os.fsencode(path)) < 108:
            tried("socket", path, lambda: connect(path))
for process in filter(str.isdigit, os.listdir("/proc")):
    try:
        if os.stat(f"/proc/{process}").st_uid != victim:
            continue
    except OSError:
        continue
    tried("process", process, lambda: os.kill(int(process), 0))
    for file in ("environ", "maps", "mem"):
        tried("process", f"{process} {file}", lambda: read(f"/proc/{process}/{file}"))
    tried("process", f"{process} fd", lambda: os.listdir(f"/proc/{process}/fd"))
for line in open("/proc/net/unix").readlines()[1:]:
    name = line.split()[-1]
    # Sockets without a name have seven fields only. Abstract ones belong to nobody visible, so the
    # names tell whose they are.
    if name.startswith("@") and "container" in name:
        tried("socket", name, lambda: connect("\0" + name[1:]))
for address, port in listening():
    try:
        fetch(address, port)
        print(f"port {address}:{port}: possible")
    except OSError:
        pass
    counts["port"] += 1
print(counts, file=sys.stderr)
