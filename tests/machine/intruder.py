"""Tries to reach what belongs to the user UID, and prints what was possible.

usage: intruder.py UID PORTS < PATHS
"""

import errno
import os
import socket
import sys

victim = int(sys.argv[1])
published = {int(port) for port in sys.argv[2].split(",")}
counts = {"path": 0, "socket": 0, "process": 0, "port": 0, "udp port": 0}

# A lookup of the address of web.machine (RFC 1035, section 4.1).
LOOKUP = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x07machine\x00\x00\x01\x00\x01"


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
    """Succeeds if the file has content: a process that ends has none that can be read."""
    with open(path, "rb") as file:
        if not file.read(1):
            raise ProcessLookupError(errno.ESRCH, "empty")


def fetch(address, port):
    """Succeeds if the server says anything."""
    with socket.create_connection((address, port), timeout=20) as stream:
        stream.sendall(b"GET / HTTP/1.0\r\n\r\n")
        if not stream.recv(1):
            raise PermissionError(errno.EACCES, "closed")


def ask(address, port):
    """Succeeds if the server answers a datagram."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as stream:
        stream.settimeout(2)
        stream.connect((address, port))
        stream.send(LOOKUP)
        stream.recv(1)


def addresses(table, state):
    """Addresses and users of sockets in this state (proc_net_tcp(5), and the same for others)."""
    for line in open(f"/proc/net/{table}").readlines()[1:]:
        fields = line.split()
        if fields[3] == state:
            address, port = fields[1].split(":")
            # Words of 32 bits in the order of the processor.
            address = bytes.fromhex(address)
            words = [address[start:start + 4][::-1] for start in range(0, len(address), 4)]
            family = socket.AF_INET if len(words) == 1 else socket.AF_INET6
            yield socket.inet_ntop(family, b"".join(words)), int(port, 16), int(fields[7])


def targets(sockets, ports):
    """Addresses of the user's sockets, and loopback addresses with all ports of the user's."""
    own = {(at, port) for at, port, user in sockets if user == victim}
    others = {(at, port) for at, port, user in sockets if user != victim}
    for at in ("127.0.0.1", "::1"):
        for port in ports | {port for _, port in own}:
            # What another user's socket answers proves nothing.
            if not any((bound, port) in others for bound in (at, "0.0.0.0", "::")):
                own.add((at, port))
    # A socket at an unspecified address is tried at a loopback address.
    return {(at, port) for at, port in own if at not in ("0.0.0.0", "::")}


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
streams = [*addresses("tcp", "0A"), *addresses("tcp6", "0A")]
# Sockets that are not connected.
datagrams = [*addresses("udp", "07"), *addresses("udp6", "07")]
ports = published | {port for _, port, user in streams + datagrams if user == victim}
for kind, sockets, act in (("port", streams, fetch), ("udp port", datagrams, ask)):
    for address, port in targets(sockets, ports):
        try:
            act(address, port)
            print(f"{kind} {address} {port}: possible")
        except OSError:
            pass
        counts[kind] += 1
print(counts, file=sys.stderr)
